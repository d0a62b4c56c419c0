// SpikeGuard: notices losses and gradient norms that stand out from those of the steps before.
//
//   z(x) = (x - mean) / deviation, over the last 128 steps; 0 until there are that many
// After llm.c's detector.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace metala {

class SpikeGuard {
 public:
  static constexpr std::size_t window = 128;

  struct Scores {
    double loss = 0, norm = 0;  // z
  };
  // How much a step stands out; it then counts among those before. Whether it is left out of
  // training or not: a new level becomes normal in time.
  Scores score(double loss, double norm);

 private:
  struct Series {
    std::vector<double> values;  // a ring
    std::size_t next = 0;
    double score(double x);
  };
  Series losses_, norms_;
};

}  // namespace metala
