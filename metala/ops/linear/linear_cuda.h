// The CUDA form, by cuBLASLt: x and weight f32 or bf16, y that type or f32; bias, dweight and dbias
// f32. Arguments are checked before they come here.
#pragma once

#include "metala/base/tensor.h"

namespace metala::linear::cuda {

void forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y, bool accumulate);
void backward_input(const Tensor& dy, const Tensor& weight, Tensor dx);
void backward_weight(const Tensor& dy, const Tensor& x, Tensor dweight, Tensor dbias);

}  // namespace metala::linear::cuda
