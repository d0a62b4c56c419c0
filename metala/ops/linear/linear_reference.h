// The definition of the linear map and its gradients: plain loops, any scalar. double is the truth.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "metala/base/quantized.h"
#include "metala/base/tensor.h"

namespace metala::linear::reference {

template <class T>
void forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y, bool accumulate) {
  for (std::int64_t n = 0; n < x.size(0); ++n) {
    const T* in = x.data<T>() + n * x.stride(0);
    T* out = y.data<T>() + n * y.stride(0);
    for (std::int64_t o = 0; o < weight.size(0); ++o) {
      const T* w = weight.data<T>() + o * weight.stride(0);
      T sum = bias.defined() ? bias.data<T>()[o] : T{0};
      for (std::int64_t i = 0; i < weight.size(1); ++i) sum += in[i] * w[i];
      out[o] = accumulate ? out[o] + sum : sum;
    }
  }
}

// x as it meets W in blocks (base/quantized.h): in signed bytes q with a step for every 32 of them,
//
//   x[i] ~ step[i / 32] q[i]      step = m / 127      q[i] = x[i] (127 / m) to the nearest, ties
//                                                            to even
//
// where m is the largest magnitude of the 32. Where one is not finite the step is NaN and q = 0;
// where 127 / m is not (m below 4e-37) both are 0. All of it in float, for all processors to agree.
inline void round_row(const float* x, std::int64_t n, std::int8_t* q, float* steps) {
  constexpr std::int64_t group = quantized::group;
  for (std::int64_t g = 0; g < n / group; ++g, x += group, q += group) {
    float largest = 0;
    for (std::int64_t i = 0; i < group; ++i) {
      if (!(std::fabs(x[i]) <= largest)) largest = std::fabs(x[i]);
      if (!std::isfinite(largest)) break;
    }
    const float inverse = largest > 0 ? 127 / largest : 0;
    const bool usable = std::isfinite(largest) && std::isfinite(inverse);
    steps[g] = usable                   ? largest / 127
               : std::isfinite(largest) ? 0
                                        : std::numeric_limits<float>::quiet_NaN();
    for (std::int64_t i = 0; i < group; ++i) {
      q[i] = usable ? static_cast<std::int8_t>(std::nearbyint(x[i] * inverse)) : std::int8_t{0};
    }
  }
}

template <class T>
void add_bias(const Tensor& bias, Tensor y) {
  for (std::int64_t n = 0; n < y.size(0); ++n) {
    T* out = y.data<T>() + n * y.stride(0);
    for (std::int64_t o = 0; o < y.size(1); ++o) out[o] += bias.data<T>()[o];
  }
}

template <class T>
void backward_bias(const Tensor& dy, Tensor dbias) {
  for (std::int64_t n = 0; n < dy.size(0); ++n) {
    const T* gradient = dy.data<T>() + n * dy.stride(0);
    for (std::int64_t o = 0; o < dy.size(1); ++o) dbias.data<T>()[o] += gradient[o];
  }
}

template <class T>
void backward_input(const Tensor& dy, const Tensor& weight, Tensor dx) {
  for (std::int64_t n = 0; n < dy.size(0); ++n) {
    const T* gradient = dy.data<T>() + n * dy.stride(0);
    T* into = dx.data<T>() + n * dx.stride(0);
    for (std::int64_t o = 0; o < weight.size(0); ++o) {
      const T* w = weight.data<T>() + o * weight.stride(0);
      for (std::int64_t i = 0; i < weight.size(1); ++i) into[i] += gradient[o] * w[i];
    }
  }
}

template <class T>
void backward_weight(const Tensor& dy, const Tensor& x, Tensor dweight, Tensor dbias) {
  for (std::int64_t n = 0; n < dy.size(0); ++n) {
    const T* gradient = dy.data<T>() + n * dy.stride(0);
    const T* in = x.data<T>() + n * x.stride(0);
    for (std::int64_t o = 0; o < dweight.size(0); ++o) {
      T* w = dweight.data<T>() + o * dweight.stride(0);
      for (std::int64_t i = 0; i < dweight.size(1); ++i) w[i] += gradient[o] * in[i];
      if (dbias.defined()) dbias.data<T>()[o] += gradient[o];
    }
  }
}

}  // namespace metala::linear::reference
