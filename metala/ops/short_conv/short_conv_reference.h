// The definition of the short convolution and its gradient: plain loops, any scalar. double is the
// truth.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "metala/base/ragged.h"
#include "metala/base/tensor.h"

namespace metala::short_conv::reference {

template <class T>
T sigmoid(T x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}

// One sequence's inputs: its tokens, before them the carried state, before that zero.
template <class T>
struct Sequence {
  const T* x;
  std::int64_t stride, tokens, width;
  const T* before;  // [d, W] of this sequence, or null

  T input(std::int64_t t, std::int64_t channel) const {
    if (t >= 0) return x[t * stride + channel];
    const std::int64_t j = width + t;
    return before == nullptr || j < 0 ? T{0} : before[channel * width + j];
  }
  T sum(const T* taps, std::int64_t t, std::int64_t channel) const {
    T c = 0;
    for (std::int64_t j = 0; j < width; ++j) {
      c += taps[channel * width + j] * input(t - (width - 1) + j, channel);
    }
    return c;
  }
};

template <class T>
Sequence<T> sequence(const Tensor& x, const Tensor& weight, Offsets offsets, const Tensor& before,
                     std::size_t b) {
  const std::int64_t width = weight.size(1);
  return {x.data<T>() + offsets[b] * x.stride(0), x.stride(0), offsets[b + 1] - offsets[b], width,
          before.defined() ? before.data<T>() + static_cast<std::int64_t>(b) * x.size(1) * width
                           : nullptr};
}

template <class T>
void forward(const Tensor& x, const Tensor& weight, Offsets offsets, const Tensor& before, Tensor y,
             Tensor after) {
  const std::int64_t channels = x.size(1);
  const std::int64_t width = weight.size(1);
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const auto in = sequence<T>(x, weight, offsets, before, b);
    for (std::int64_t t = 0; t < in.tokens; ++t) {
      T* out = y.data<T>() + (offsets[b] + t) * y.stride(0);
      for (std::int64_t i = 0; i < channels; ++i) {
        const T c = in.sum(weight.data<T>(), t, i);
        out[i] = c * sigmoid(c);
      }
    }
    if (!after.defined()) continue;
    std::vector<T> last;  // `after` may be `before`, which is still being read
    for (std::int64_t i = 0; i < channels; ++i) {
      for (std::int64_t j = 0; j < width; ++j) last.push_back(in.input(in.tokens - width + j, i));
    }
    std::copy(last.begin(), last.end(),
              after.data<T>() + static_cast<std::int64_t>(b) * channels * width);
  }
}

template <class T>
void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, Offsets offsets,
              const Tensor& before, const Tensor& dafter, Tensor dx, Tensor dweight,
              Tensor dbefore) {
  const std::int64_t channels = x.size(1);
  const std::int64_t width = weight.size(1);
  const T* taps = weight.data<T>();
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const auto in = sequence<T>(x, weight, offsets, before, b);
    const std::int64_t state = static_cast<std::int64_t>(b) * channels * width;
    const auto add = [&](std::int64_t t, std::int64_t i, T gradient) {
      if (t >= 0) {
        dx.data<T>()[(offsets[b] + t) * dx.stride(0) + i] += gradient;
      } else if (dbefore.defined() && width + t >= 0) {
        dbefore.data<T>()[state + i * width + width + t] += gradient;
      }
    };
    for (std::int64_t t = 0; t < in.tokens; ++t) {
      const T* gradient = dy.data<T>() + (offsets[b] + t) * dy.stride(0);
      for (std::int64_t i = 0; i < channels; ++i) {
        const T c = in.sum(taps, t, i);
        const T s = sigmoid(c);
        const T dc = gradient[i] * s * (1 + c * (1 - s));
        for (std::int64_t j = 0; j < width; ++j) {
          const std::int64_t from = t - (width - 1) + j;
          dweight.data<T>()[i * width + j] += dc * in.input(from, i);
          add(from, i, dc * taps[i * width + j]);
        }
      }
    }
    if (!dafter.defined()) continue;
    for (std::int64_t i = 0; i < channels; ++i) {
      for (std::int64_t j = 0; j < width; ++j) {
        add(in.tokens - width + j, i, dafter.data<T>()[state + i * width + j]);
      }
    }
  }
}

}  // namespace metala::short_conv::reference
