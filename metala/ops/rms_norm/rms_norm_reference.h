// The definition of the root-mean-square norm: plain loops, any scalar. double is the truth.
#pragma once

#include <cmath>

#include "metala/base/tensor.h"

namespace metala::rms_norm::reference {

template <class T>
void forward(const Tensor& x, double eps, Tensor y, Tensor inverse_rms) {
  const auto width = x.size(1);
  for (std::int64_t n = 0; n < x.size(0); ++n) {
    const T* in = x.data<T>() + n * x.stride(0);
    T* out = y.data<T>() + n * y.stride(0);
    T sum = 0;
    for (std::int64_t i = 0; i < width; ++i) sum += in[i] * in[i];
    const T r = 1 / std::sqrt(sum / static_cast<T>(width) + static_cast<T>(eps));
    for (std::int64_t i = 0; i < width; ++i) out[i] = in[i] * r;
    if (inverse_rms.defined()) inverse_rms.data<T>()[n] = r;
  }
}

template <class T>
void backward(const Tensor& dy, const Tensor& y, const Tensor& inverse_rms, Tensor dx) {
  const auto width = y.size(1);
  for (std::int64_t n = 0; n < y.size(0); ++n) {
    const T* gradient = dy.data<T>() + n * dy.stride(0);
    const T* out = y.data<T>() + n * y.stride(0);
    T* dx_row = dx.data<T>() + n * dx.stride(0);
    T mean = 0;
    for (std::int64_t i = 0; i < width; ++i) mean += gradient[i] * out[i];
    mean /= static_cast<T>(width);
    const T r = inverse_rms.data<T>()[n];
    for (std::int64_t i = 0; i < width; ++i) dx_row[i] += r * (gradient[i] - out[i] * mean);
  }
}

}  // namespace metala::rms_norm::reference
