// Which matrices of a model multiply the same rows: where these lie one after the other in memory
// one product takes them all (functions::linear).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "metala/base/tensor.h"

namespace metala {

// The names among `tensors` that share `name`'s product, itself included, in the product's order;
// of a matrix that shares none, or another tensor, itself alone.
std::vector<std::string> stack_of(const std::string& name,
                                  const std::map<std::string, Tensor>& tensors);

}  // namespace metala
