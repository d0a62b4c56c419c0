// Reading memory as fast as a core can.
#pragma once

#include <cstddef>

namespace metala::bench {

// The sum of n floats, with whole-vector loads in order.
float add_up(const float* data, std::size_t n);

}  // namespace metala::bench
