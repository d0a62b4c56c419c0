// The CUDA form: x, W, dx f32 or bf16; dW, row losses f32. Labels must be mirrored on the GPU.
// Arguments are checked before they come here.
#pragma once

#include "metala/ops/cross_entropy/cross_entropy_forms.h"

namespace metala::cross_entropy::cuda {

void run(const Tensor& x, const Tensor& weight, Ids labels, double scale, const Gradients&,
         const Tensor& sums, const Rows&);

}  // namespace metala::cross_entropy::cuda
