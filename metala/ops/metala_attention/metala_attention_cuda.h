// The CUDA form: q, u, k, v, z, o, mixed f32 or bf16; aug, fixed_decay and states f32. Arguments
// are checked before they come here; offsets must be mirrored on the GPU.
#pragma once

#include "metala/ops/metala_attention/metala_attention.h"

namespace metala::metala_attention::cuda {

Shape states_shape(const Options&, const Inputs&, Offsets offsets);
void forward(const Options&, const Inputs&, Offsets offsets, Tensor o, Tensor mixed, Tensor after,
             const Tensor& states);
void backward(const Options&, const Inputs&, Offsets offsets, const Tensor& mixed,
              const Tensor& do_, const Tensor& dafter, const Gradients&, const Tensor& states);

}  // namespace metala::metala_attention::cuda
