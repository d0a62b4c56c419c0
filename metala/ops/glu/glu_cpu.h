// The fast f32 form of SiLU, picked by glu.cpp. Arguments are checked before they come here.
#pragma once

#include "metala/base/tensor.h"

namespace metala::glu::cpu {

void silu_forward(const Tensor& a, const Tensor& b, Tensor y);
void silu_backward(const Tensor& a, const Tensor& b, const Tensor& dy, Tensor da, Tensor db);

}  // namespace metala::glu::cpu
