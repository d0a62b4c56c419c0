// Dropout with a counter-based mask: element (n, i) of draw `stream` under `seed` is kept or
// dropped by a pure function of those four, so the backward pass needs no stored mask.
//
//   y = x * m / (1 - p),  m = 1 with probability 1 - p, else 0          dx += dy * m / (1 - p)
//
//   x, y, dy, dx [N, d]   f32 or f64, or on a GPU bf16; any row stride; y may be x     0 <= p < 1
// Throws Error naming the argument, the shape it has and the shape it needs.
#pragma once

#include <cstdint>

#include "metala/base/tensor.h"

namespace metala::dropout {

struct Mask {
  double probability = 0;
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;  // distinct for each use in a model and each step
};

void forward(const Mask&, const Tensor& x, Tensor y);
void backward(const Mask&, const Tensor& dy, Tensor dx);

}  // namespace metala::dropout
