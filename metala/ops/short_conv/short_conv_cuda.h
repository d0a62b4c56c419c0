// The CUDA form: x, y f32 or bf16; weight and states f32. Arguments are checked before they come
// here; offsets must be mirrored on the GPU.
#pragma once

#include "metala/base/ragged.h"
#include "metala/base/tensor.h"

namespace metala::short_conv::cuda {

void forward(const Tensor& x, const Tensor& weight, Offsets offsets, const Tensor& before, Tensor y,
             Tensor after);

}  // namespace metala::short_conv::cuda
