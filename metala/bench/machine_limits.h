// What this machine can do at most, measured between the repetitions of what is compared with it:
// machines that share their memory with others change from minute to minute.
#pragma once

#include <vector>

#include "metala/base/tensor.h"

namespace metala::bench {

double median(std::vector<double> samples);

// Bytes a second, read and written, of copying 1 GiB within the device's memory.
double copy_bytes_per_second(Device);

class MachineLimits {
 public:
  MachineLimits();

  // Reads `tensors` with all threads, adding them up. To compare a workload with the reading of
  // its own bytes: where memory is virtual, one buffer may lie much better than another.
  void read(const std::vector<Tensor>& tensors);
  // A square single-precision product by the matrix library, of the size that ran best at first.
  void multiply();
  void forget() { read_samples_.clear(), sgemm_samples_.clear(); }

  // Samples since `forget`: bytes and flops a second. The rates are their medians, 0 without any.
  const std::vector<double>& read_samples() const { return read_samples_; }
  const std::vector<double>& sgemm_samples() const { return sgemm_samples_; }
  double read_bytes_per_second() const { return median(read_samples_); }
  double sgemm_flops_per_second() const { return median(sgemm_samples_); }

 private:
  double product(int n);

  Tensor a_, b_, c_;
  int best_ = 0;
  volatile float sum_ = 0;
  std::vector<double> read_samples_, sgemm_samples_;
};

}  // namespace metala::bench
