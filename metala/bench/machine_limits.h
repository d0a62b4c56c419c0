// What this machine can do at most, measured in the same run as what is compared with it.
#pragma once

#include <vector>

namespace metala::bench {

struct MachineLimits {
  // Reading memory far beyond the caches with all threads, bytes a second: each pass adds up a
  // buffer of 512 MiB. The figure is the median; passes lie in `read_samples`.
  double read_bytes_per_second = 0;
  std::vector<double> read_samples;
  // The best of several square single-precision products by the matrix library, flops a second;
  // for each size the median of its repetitions.
  double sgemm_flops_per_second = 0;
  std::vector<double> sgemm_samples;  // of the best size
};

MachineLimits measure_machine_limits();

}  // namespace metala::bench
