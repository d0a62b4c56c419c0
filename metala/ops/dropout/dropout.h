// Dropout with a counter-based mask: element (n, i) of draw `stream` under `seed` is kept or
// dropped by a pure function of those four, so the backward pass needs no stored mask, and a part
// of a matrix that says where its rows lie in the whole gets its part of the whole's mask.
//
//   y = x * m / (1 - p),  m = 1 with probability 1 - p, else 0          dx += dy * m / (1 - p)
//
//   x, y, dy, dx [N, d]   f32 or f64, or on a GPU bf16; any row stride; y may be x     0 <= p < 1
// Throws Error naming the argument, the shape it has and the shape it needs.
#pragma once

#include <cstdint>

#include "metala/base/ragged.h"
#include "metala/base/tensor.h"

namespace metala::dropout {

struct Mask {
  double probability = 0;
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;  // distinct for each use in a model and each step
};

// Where the rows of x lie in the whole matrix that a mask is drawn for: row offsets[b] + j of x is
// row origins[b] + j of it. Without origins x is the whole.
struct Rows {
  Offsets offsets;                 // B + 1
  Mirrored<std::int64_t> origins;  // [B], not negative
};

void forward(const Mask&, const Tensor& x, Tensor y, const Rows& = {});
void backward(const Mask&, const Tensor& dy, Tensor dx, const Rows& = {});

}  // namespace metala::dropout
