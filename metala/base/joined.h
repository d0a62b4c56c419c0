// Matrices that lie one after the other in memory, seen as one.
#pragma once

#include <vector>

#include "metala/base/tensor.h"

namespace metala {

// The rows of all of them, as a view that keeps them alive; undefined where they do not follow one
// another without a gap, or differ in width, type or device.
Tensor joined(const std::vector<Tensor>& matrices);

}  // namespace metala
