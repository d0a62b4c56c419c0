// The definition of the gated unit and its gradient: plain loops, any scalar. double is the truth.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

#include "metala/base/host_device.h"
#include "metala/base/tensor.h"
#include "metala/ops/glu/glu.h"

namespace metala::glu::reference {

template <class T>
METALA_HOST_DEVICE T sigmoid(T x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}

// act(a); for exp, a is already relative to its row's maximum.
template <class T>
METALA_HOST_DEVICE T value(Activation activation, T a) {
  switch (activation) {
    case Activation::silu:
      return a * sigmoid(a);
    case Activation::gelu:
      return a / 2 * (1 + std::erf(a / static_cast<T>(std::numbers::sqrt2)));
    case Activation::relu:
      return a < 0 ? T{0} : a;  // NaN stays
    case Activation::elu:
      return a > 0 ? a : std::expm1(a);
    case Activation::sigmoid:
      return sigmoid(a);
    case Activation::leak:
      return a > 0 ? a : static_cast<T>(0.01) * a;
    case Activation::one_plus_elu:
      return 1 + (a > 0 ? a : std::expm1(a));
    case Activation::two_plus_elu:
      return 2 + (a > 0 ? a : std::expm1(a));
    case Activation::sine:
      return std::sin(a);
    case Activation::exp:
      return std::exp(a);
  }
  return 0;
}

template <class T>
METALA_HOST_DEVICE T slope(Activation activation, T a) {
  switch (activation) {
    case Activation::silu: {
      const T s = sigmoid(a);
      return s * (1 + a * (1 - s));
    }
    case Activation::gelu: {
      const T density =
          std::exp(-a * a / 2) * std::numbers::inv_sqrtpi_v<T> / std::numbers::sqrt2_v<T>;
      return (1 + std::erf(a / static_cast<T>(std::numbers::sqrt2))) / 2 + a * density;
    }
    case Activation::relu:
      return a > 0 ? 1 : 0;
    case Activation::elu:
    case Activation::one_plus_elu:
    case Activation::two_plus_elu:
      return a > 0 ? 1 : std::exp(a);
    case Activation::sigmoid: {
      const T s = sigmoid(a);
      return s * (1 - s);
    }
    case Activation::leak:
      return a > 0 ? 1 : static_cast<T>(0.01);
    case Activation::sine:
      return std::cos(a);
    case Activation::exp:
      return std::exp(a);
  }
  return 0;
}

// What is subtracted from a row before the activation.
template <class T>
T origin(Activation activation, const T* row, std::int64_t width) {
  if (activation != Activation::exp || width == 0) return 0;
  return *std::max_element(row, row + width);
}

template <class T>
void forward_rows(Activation activation, const Tensor& a, const Tensor& b, const Tensor& y,
                  std::int64_t begin, std::int64_t end) {
  for (std::int64_t n = begin; n < end; ++n) {
    const T* in = a.data<T>() + n * a.stride(0);
    const T* gate = b.defined() ? b.data<T>() + n * b.stride(0) : nullptr;
    T* out = y.data<T>() + n * y.stride(0);
    const T zero = origin(activation, in, a.size(1));
    for (std::int64_t i = 0; i < a.size(1); ++i) {
      const T act = value(activation, in[i] - zero);
      out[i] = gate == nullptr ? act : act * gate[i];
    }
  }
}

template <class T>
void backward_rows(Activation activation, const Tensor& a, const Tensor& b, const Tensor& dy,
                   const Tensor& da, const Tensor& db, std::int64_t begin, std::int64_t end) {
  for (std::int64_t n = begin; n < end; ++n) {
    const T* in = a.data<T>() + n * a.stride(0);
    const T* gate = b.defined() ? b.data<T>() + n * b.stride(0) : nullptr;
    const T* gradient = dy.data<T>() + n * dy.stride(0);
    T* into_a = da.data<T>() + n * da.stride(0);
    T* into_b = b.defined() ? db.data<T>() + n * db.stride(0) : nullptr;
    const T zero = origin(activation, in, a.size(1));
    for (std::int64_t i = 0; i < a.size(1); ++i) {
      const T x = in[i] - zero;
      into_a[i] += gradient[i] * (gate == nullptr ? T{1} : gate[i]) * slope(activation, x);
      if (into_b != nullptr) into_b[i] += gradient[i] * value(activation, x);
    }
  }
}

}  // namespace metala::glu::reference
