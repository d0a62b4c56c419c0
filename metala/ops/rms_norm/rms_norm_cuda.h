// The CUDA form, f32 or bf16 (inverse_rms f32). Arguments are checked before they come here.
#pragma once

#include "metala/base/write.h"

namespace metala::rms_norm::cuda {

void forward(const Tensor& x, double eps, Tensor y, Tensor inverse_rms);
void backward(const Tensor& dy, const Tensor& y, const Tensor& inverse_rms, Tensor dx, Write);

}  // namespace metala::rms_norm::cuda
