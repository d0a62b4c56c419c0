#include "metala/train/spike_guard.h"

#include <cmath>

namespace metala {

double SpikeGuard::Series::score(double x) {
  double z = 0;
  if (values.size() == window) {
    // Summed afresh each time: running sums would drift, and a resumed run has to agree in bits.
    double mean = 0, square = 0;
    for (std::size_t i = 0; i < window; ++i) mean += values[(next + i) % window];
    mean /= static_cast<double>(window);
    for (std::size_t i = 0; i < window; ++i) {
      const double d = values[(next + i) % window] - mean;
      square += d * d;
    }
    const double deviation = std::sqrt(square / static_cast<double>(window));
    z = deviation > 0 ? (x - mean) / deviation : 0;
    values[next] = x;
    next = (next + 1) % window;
  } else {
    values.push_back(x);
  }
  return z;
}

SpikeGuard::Scores SpikeGuard::score(double loss, double norm) {
  return {losses_.score(loss), norms_.score(norm)};
}

}  // namespace metala
