// Products of numbers that people and files name, which may be too large for 64 bits.
#pragma once

#include <cstdint>

#include "metala/base/error.h"

namespace metala {

// a b, of numbers of 0 or more; `what` says which they are: "samples times their length". Throws
// Error with both where the product is 2^63 or more.
inline std::int64_t checked_product(const char* what, std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  require(!__builtin_mul_overflow(a, b, &product),
          "{}: {} times {} is 2^63 or more; give smaller numbers", what, a, b);
  return product;
}

}  // namespace metala
