// AxisRange: what an axis of a plot spans.
#pragma once

#include <algorithm>
#include <limits>

namespace metala {

struct AxisRange {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void include(double x) {
    low = std::min(low, x);
    high = std::max(high, x);
  }
  // Never empty, so that positions can be computed.
  void settle() {
    if (low > high) low = 0, high = 1;
    if (low == high) low -= 0.5, high += 0.5;
  }
  double share(double x) const { return (x - low) / (high - low); }
};

}  // namespace metala
