#include "metala/bench/machine_limits.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "metala/base/threads.h"
#include "metala/bench/read_memory.h"
#include "metala/device/cpu/matrix_product.h"

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
  const auto parts = static_cast<std::int64_t>(thread_count());
  std::vector<float> totals(static_cast<std::size_t>(parts));
  double bytes = 0;
  for (const auto& t : tensors) bytes += static_cast<double>(t.bytes());
  const auto start = std::chrono::steady_clock::now();
  parallel_tasks(parts, [&](std::int64_t i) {
    float total = 0;
    for (const auto& t : tensors) {
      const auto words = static_cast<std::int64_t>(t.bytes() / sizeof(float));
      const std::int64_t begin = words * i / parts, end = words * (i + 1) / parts;
      total +=
          add_up(static_cast<const float*>(t.raw()) + begin, static_cast<std::size_t>(end - begin));
    }
    totals[static_cast<std::size_t>(i)] = total;
  });
  read_samples_.push_back(bytes / seconds_since(start));
  for (const float total : totals) sum_ = sum_ + total;  // keeps the loads from being left out
}

double MachineLimits::product(int n) {
  const auto start = std::chrono::steady_clock::now();
  const auto square = [n](const Tensor& t) { return Tensor::wrap(t.data<float>(), {n, n}); };
  matrix_product(square(a_), Transpose::no, square(b_), Transpose::yes, 0, square(c_));
  return 2.0 * n * n * n / seconds_since(start);
}

void MachineLimits::multiply() {
  sgemm_samples_.push_back(product(best_));
}

}  // namespace metala::bench
