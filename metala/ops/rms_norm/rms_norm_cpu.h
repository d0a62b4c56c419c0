// The fast f32 form, picked by rms_norm.cpp. Arguments are checked before they come here.
#pragma once

#include "metala/base/tensor.h"

namespace metala::rms_norm::cpu {

void forward(const Tensor& x, double eps, Tensor y, Tensor inverse_rms);
void backward(const Tensor& dy, const Tensor& y, const Tensor& inverse_rms, Tensor dx);

}  // namespace metala::rms_norm::cpu
