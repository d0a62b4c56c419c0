// AdamW over many tensors at once, and the global gradient norm.
//
//   g' = s g / max(1, (s norm + 1e-6) / clip)      clip 0: g' = s g; s undoes the loss's scale
//   m = b1 m + (1 - b1) g'      v = b2 v + (1 - b2) g'^2
//   p -= lr ( m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay p )
//
// Tensors are contiguous, all f32 or all f64 (on a GPU f32). `norm` is the global norm of the
// gradients; when it is not finite nothing changes. Each slot says whether it decays. t counts from
// 1. The reference system's (GPT-NeoX on DeepSpeed) formula.
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
  double clip = 0;  // largest global norm; 0: no clipping
  std::int64_t step = 1;
  double gradient_scale = 1;  // s
};

struct Slot {
  std::string name;
  Tensor parameter, gradient, first_moment, second_moment;
  bool decays = true;
  Tensor working = {};  // on a GPU: bf16 or f16, receives the parameter rounded; may be absent
};

// norm [1] f64, where the slots lie.
void update(const Options&, std::span<const Slot>, const Tensor& norm);

// norm [1] f64 becomes the square root of the sum of squares over all elements, accumulated in
// double, in an order that does not depend on the number of threads. NaN and infinity come through.
// All tensors lie where `norm` does; on a GPU they are f32 and nobody waits.
void global_norm(std::span<const Tensor>, Tensor norm);
double global_norm(std::span<const Tensor>);  // waits for the device

// Its two halves, where other ranks hold some of the gradients: sum [1] f64 becomes the sum of
// squares, and, once the ranks' sums have been added, its own square root.
void sum_of_squares(std::span<const Tensor>, Tensor sum);
void square_root(Tensor sum);

// sum [1] f64 becomes NaN where value [1] f64 is not finite: `update` then changes nothing.
void join_finiteness(const Tensor& value, Tensor sum);

}  // namespace metala::adamw
