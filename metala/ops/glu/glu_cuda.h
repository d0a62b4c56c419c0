// The CUDA form, f32 or bf16. Arguments are checked before they come here.
#pragma once

#include "metala/ops/glu/glu.h"

namespace metala::glu::cuda {

void forward(Activation, const Tensor& a, const Tensor& b, Tensor y);
void backward(Activation, const Tensor& a, const Tensor& b, const Tensor& dy, Tensor da, Tensor db,
              Write, Tensor y);

}  // namespace metala::glu::cuda
