// AdamW over many tensors at once, and the global gradient norm.
//
//   g' = gradient_scale * g
//   m = b1 m + (1 - b1) g'      v = b2 v + (1 - b2) g'^2
//   p -= lr ( m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay p )
//
// Tensors are contiguous, all f32 or all f64. gradient_scale carries clipping. Each slot says
// whether it decays. t counts from 1. The reference system's (GPT-NeoX on DeepSpeed) formula.
// Throws Error naming slot and argument.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "metala/base/tensor.h"

namespace metala::adamw {

struct Options {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  std::int64_t step = 1;
};

struct Slot {
  std::string name;
  Tensor parameter, gradient, first_moment, second_moment;
  bool decays = true;
};

void update(const Options&, std::span<const Slot>, double gradient_scale);

// sqrt of the sum of squares over all elements, accumulated in double, in an order that does not
// depend on the number of threads. NaN and infinity come through.
double global_norm(std::span<const Tensor>);

// The factor for clipping to `most` (0: no clipping): 1 / max(1, (norm + 1e-6) / most).
double clip_factor(double norm, double most);

}  // namespace metala::adamw
