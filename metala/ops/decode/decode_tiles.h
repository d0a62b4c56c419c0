// Products of more rows than the streaming kernel's instruction takes (decode_tiles_cuda.cu): each
// is as its namesake in decode_cuda.h, or does nothing and returns false where the GPU, the sizes
// or where the matrices lie do not suit it.
#pragma once

#include "metala/ops/decode/decode_cuda.h"

namespace metala::decode::cuda {

bool project_in_tiles(const Tensor& rows, const Tensor& weights, const Tensor& y);
bool project_gated_in_tiles(const Tensor& rows, const Gated&, const Tensor& h);
bool project_onto_in_tiles(const Tensor& rows, const Tensor& weight, const Tensor& bias,
                           const Tensor& x);

}  // namespace metala::decode::cuda
