// The CUDA form: x, y f32 or bf16; weight, bias, mean, inverse_std f32. Arguments are checked
// before they come here.
#pragma once

#include "metala/base/tensor.h"

namespace metala::layer_norm::cuda {

void forward(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, Tensor y,
             Tensor mean, Tensor inverse_std);
void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean,
              const Tensor& inverse_std, Tensor dx, Tensor dweight, Tensor dbias);

}  // namespace metala::layer_norm::cuda
