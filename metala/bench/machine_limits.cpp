#include "metala/bench/machine_limits.h"

#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "metala/bench/read_memory.h"

namespace metala::bench {
namespace {

constexpr int sizes[] = {512, 1024, 2048};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double median(std::vector<double> samples) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

double copy_bytes_per_second(Device device) {
  constexpr int copies = 10;
  const Tensor from = Tensor::zeros({std::int64_t{1} << 28}, DType::f32, device);
  const Tensor to = Tensor::zeros(from.shape(), DType::f32, device);
  std::vector<double> rates;
  for (int i = 0; i < 6; ++i) {
    memory_of(device).synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int copy = 0; copy < copies; ++copy) to.copy_from(from);
    memory_of(device).synchronize();
    rates.push_back(2.0 * copies * static_cast<double>(from.bytes()) / seconds_since(start));
  }
  rates.erase(rates.begin());  // warms up
  return median(rates);
}

MachineLimits::MachineLimits()
    : a_(Tensor::zeros({sizes[2], sizes[2]})),
      b_(Tensor::zeros({sizes[2], sizes[2]})),
      c_(Tensor::zeros({sizes[2], sizes[2]})) {
  double best_rate = 0;
  for (const int n : sizes) {
    product(n);  // warms up
    std::vector<double> rates;
    for (int i = 0; i < 5; ++i) rates.push_back(product(n));
    if (median(rates) <= best_rate) continue;
    best_rate = median(rates);
    best_ = n;
  }
}

void MachineLimits::read(const std::vector<Tensor>& tensors) {
  float total = 0;
  double bytes = 0;
  for (const auto& t : tensors) bytes += static_cast<double>(t.bytes());
  const auto start = std::chrono::steady_clock::now();
#pragma omp parallel reduction(+ : total)
  for (const auto& t : tensors) {
    const auto words = static_cast<std::int64_t>(t.bytes() / sizeof(float));
    const std::int64_t begin = words * omp_get_thread_num() / omp_get_num_threads();
    const std::int64_t end = words * (omp_get_thread_num() + 1) / omp_get_num_threads();
    total +=
        add_up(static_cast<const float*>(t.raw()) + begin, static_cast<std::size_t>(end - begin));
  }
  read_samples_.push_back(bytes / seconds_since(start));
  sum_ = total;  // keeps the loads from being optimised away
}

double MachineLimits::product(int n) {
  const auto start = std::chrono::steady_clock::now();
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 1.0f, a_.data<float>(), n,
              b_.data<float>(), n, 0.0f, c_.data<float>(), n);
  return 2.0 * n * n * n / seconds_since(start);
}

void MachineLimits::multiply() {
  sgemm_samples_.push_back(product(best_));
}

}  // namespace metala::bench
