// Gated linear unit's pointwise part, between its matrix products.
//
//   y = act(a) * b          or y = act(a) when b is absent
//   da += dy * b * act'(a)      db += dy * act(a)      (or = with Write::overwrite)
//
//   a, b, y, dy, da, db [N, f]   f32 or f64, any row stride
//
// Activations: silu, gelu (erf form), relu, elu, sigmoid, leak (slope 0.01), 1+elu, 2+elu, sine,
// exp (of a minus its row maximum; no gradient through the maximum).
// y may be the same memory as a or b in the forward pass.
// Throws Error naming the argument, the shape it has and the shape it needs.
#pragma once

#include <string_view>

#include "metala/base/tensor.h"
#include "metala/base/write.h"

namespace metala::glu {

enum class Activation {
  silu,
  gelu,
  relu,
  elu,
  sigmoid,
  leak,
  one_plus_elu,
  two_plus_elu,
  sine,
  exp
};

// "silu" or "swish", "gelu", "relu", "elu", "sigmoid", "leak", "1+elu", "2+elu", "sine", "exp".
// Throws Error that lists the names for any other.
Activation activation_named(std::string_view name);
std::string_view name_of(Activation);  // the first of its names

void forward(Activation, const Tensor& a, const Tensor& b, Tensor y);

// b and db are absent together. y, if defined, becomes the forward pass's result again; it may be
// dy's memory.
void backward(Activation, const Tensor& a, const Tensor& b, const Tensor& dy, Tensor da, Tensor db,
              Write = Write::accumulate, Tensor y = {});

}  // namespace metala::glu
