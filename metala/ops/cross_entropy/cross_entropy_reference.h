// The definition of the loss and its gradient: plain loops, any scalar. double is the truth.
#pragma once

#include <cmath>
#include <vector>

#include "metala/ops/cross_entropy/cross_entropy_forms.h"

namespace metala::cross_entropy::reference {

template <class T>
Result run(const Tensor& x, const Tensor& weight, Ids labels, double scale, const Gradients& to,
           const Rows& rows) {
  const std::int64_t vocabulary = weight.size(0);
  const std::int64_t width = weight.size(1);
  Result result;
  std::vector<T> z(static_cast<std::size_t>(vocabulary));
  for (std::size_t n = 0; n < labels.size(); ++n) {
    const auto row = static_cast<std::int64_t>(n);
    if (rows.loss.defined()) rows.loss.data<T>()[n] = 0;
    if (rows.best.defined()) rows.best.data<std::int32_t>()[n] = -1;
    if (labels[n] < 0) continue;
    const T* in = x.data<T>() + row * x.stride(0);
    std::size_t best = 0;
    for (std::size_t v = 0; v < z.size(); ++v) {
      const T* w = weight.data<T>() + static_cast<std::int64_t>(v) * weight.stride(0);
      z[v] = 0;
      for (std::int64_t i = 0; i < width; ++i) z[v] += in[i] * w[i];
      if (z[v] > z[best] || (std::isnan(z[v]) && !std::isnan(z[best]))) best = v;
    }
    const auto label = static_cast<std::size_t>(labels[n]);
    const T largest = z[best];
    T sum = 0;
    for (const T value : z) sum += std::exp(value - largest);
    const T loss = std::log(sum) + (largest - z[label]);
    result.loss += static_cast<double>(loss);
    ++result.count;
    result.correct += best == label ? 1 : 0;
    if (rows.loss.defined()) rows.loss.data<T>()[n] = loss;
    if (rows.best.defined()) {
      rows.best.data<std::int32_t>()[n] = static_cast<std::int32_t>(best);
    }
    if (!to.x.defined()) continue;
    for (std::size_t v = 0; v < z.size(); ++v) {
      const T dz = static_cast<T>(scale) * (std::exp(z[v] - largest) / sum - (v == label ? 1 : 0));
      const auto at = static_cast<std::int64_t>(v);
      for (std::int64_t i = 0; i < width; ++i) {
        to.x.data<T>()[row * to.x.stride(0) + i] +=
            dz * weight.data<T>()[at * weight.stride(0) + i];
        to.weight.data<T>()[at * to.weight.stride(0) + i] += dz * in[i];
      }
    }
  }
  return result;
}

}  // namespace metala::cross_entropy::reference
