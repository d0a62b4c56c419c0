// What the forms of the op share beside its public face.
#pragma once

#include "metala/ops/cross_entropy/cross_entropy.h"

namespace metala::cross_entropy {

// Gradients to add to: both given, or neither.
struct Gradients {
  Tensor x, weight;
};

// What is wanted of single rows; either may be absent.
struct Rows {
  Tensor loss;
  Tensor best;
};

}  // namespace metala::cross_entropy
