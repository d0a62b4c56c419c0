// The definition of LayerNorm and its gradient, by rows, any scalar: double is the truth, float the
// form that runs. The row loops are simple enough for the compiler's own vectors.
#pragma once

#include <cmath>

#include "metala/base/tensor.h"

namespace metala::layer_norm::reference {

// Null for an absent vector.
template <class T>
T* vector_of(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}

template <class T>
void forward_rows(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                  const Tensor& y, const Tensor& mean, const Tensor& inverse_std,
                  std::int64_t begin, std::int64_t end) {
  const std::int64_t width = x.size(1);
  const T* w = vector_of<T>(weight);
  const T* b = vector_of<T>(bias);
  for (std::int64_t n = begin; n < end; ++n) {
    const T* in = x.data<T>() + n * x.stride(0);
    T* out = y.data<T>() + n * y.stride(0);
    T sum = 0;
    for (std::int64_t i = 0; i < width; ++i) sum += in[i];
    const T m = sum / static_cast<T>(width);
    T squares = 0;
    for (std::int64_t i = 0; i < width; ++i) squares += (in[i] - m) * (in[i] - m);
    const T r = 1 / std::sqrt(squares / static_cast<T>(width) + static_cast<T>(eps));
    for (std::int64_t i = 0; i < width; ++i) {
      const T h = (in[i] - m) * r;
      out[i] = h * (w == nullptr ? T{1} : w[i]) + (b == nullptr ? T{0} : b[i]);
    }
    if (mean.defined()) mean.data<T>()[n] = m;
    if (inverse_std.defined()) inverse_std.data<T>()[n] = r;
  }
}

template <class T>
void backward_rows(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean,
                   const Tensor& inverse_std, const Tensor& dx, std::int64_t begin,
                   std::int64_t end) {
  const std::int64_t width = x.size(1);
  const T* w = vector_of<T>(weight);
  for (std::int64_t n = begin; n < end; ++n) {
    const T* gradient = dy.data<T>() + n * dy.stride(0);
    const T* in = x.data<T>() + n * x.stride(0);
    T* into = dx.data<T>() + n * dx.stride(0);
    const T m = mean.data<T>()[n];
    const T r = inverse_std.data<T>()[n];
    T sum_e = 0;
    T sum_eh = 0;
    for (std::int64_t i = 0; i < width; ++i) {
      const T e = gradient[i] * (w == nullptr ? T{1} : w[i]);
      sum_e += e;
      sum_eh += e * (in[i] - m) * r;
    }
    sum_e /= static_cast<T>(width);
    sum_eh /= static_cast<T>(width);
    for (std::int64_t i = 0; i < width; ++i) {
      const T e = gradient[i] * (w == nullptr ? T{1} : w[i]);
      into[i] += r * (e - sum_e - (in[i] - m) * r * sum_eh);
    }
  }
}

// Gradients of weight and bias for the columns begin to end, summed over rows in their order.
template <class T>
void backward_columns(const Tensor& dy, const Tensor& x, const Tensor& mean,
                      const Tensor& inverse_std, const Tensor& dweight, const Tensor& dbias,
                      std::int64_t begin, std::int64_t end) {
  T* dw = vector_of<T>(dweight);
  T* db = vector_of<T>(dbias);
  for (std::int64_t n = 0; n < x.size(0); ++n) {
    const T* gradient = dy.data<T>() + n * dy.stride(0);
    const T* in = x.data<T>() + n * x.stride(0);
    const T m = mean.data<T>()[n];
    const T r = inverse_std.data<T>()[n];
    for (std::int64_t i = begin; i < end; ++i) {
      if (dw != nullptr) dw[i] += gradient[i] * (in[i] - m) * r;
      if (db != nullptr) db[i] += gradient[i];
    }
  }
}

}  // namespace metala::layer_norm::reference
