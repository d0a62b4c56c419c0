// The CUDA form, by cuBLASLt: x and weight f32 or bf16, y that type or f32; bias, dweight and dbias
// f32. Arguments are checked before they come here.
#pragma once

#include "metala/base/write.h"

namespace metala::linear::cuda {

// y = addend + x W^T + b; no addend: 0.
void forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y,
             const Tensor& addend);
void add_bias(const Tensor& bias, const Tensor& y);
void backward_bias(const Tensor& dy, const Tensor& dbias);
void backward_input(const Tensor& dy, const Tensor& weight, Tensor dx, Write);
void backward_weight(const Tensor& dy, const Tensor& x, Tensor dweight, Tensor dbias);

}  // namespace metala::linear::cuda
