#include "metala/bench/machine_limits.h"

#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "metala/base/tensor.h"
#include "metala/bench/read_memory.h"

namespace metala::bench {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

std::vector<double> read_samples() {
  constexpr std::int64_t words = std::int64_t{128} << 20;  // 512 MiB
  constexpr int passes = 9;
  const Tensor buffer = Tensor::zeros({words});
  const float* data = buffer.data<float>();
  std::vector<double> samples;
  float total = 0;
  for (int pass = 0; pass <= passes; ++pass) {
    const auto start = Clock::now();
#pragma omp parallel reduction(+ : total)
    {
      const std::int64_t rank = omp_get_thread_num();
      const std::int64_t team = omp_get_num_threads();
      const std::int64_t begin = words * rank / team;
      const std::int64_t end = words * (rank + 1) / team;
      total += add_up(data + begin, static_cast<std::size_t>(end - begin));
    }
    if (pass > 0) samples.push_back(static_cast<double>(words) * 4 / seconds_since(start));
  }
  // The sum is zero; using it keeps the loads from being optimised away.
  if (total != 0) samples.clear();
  return samples;
}

std::vector<double> sgemm_samples(int n) {
  constexpr int repetitions = 7;
  const Tensor a = Tensor::zeros({n, n});
  const Tensor b = Tensor::zeros({n, n});
  const Tensor c = Tensor::zeros({n, n});
  std::vector<double> samples;
  for (int i = 0; i <= repetitions; ++i) {
    const auto start = Clock::now();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 1.0f, a.data<float>(), n,
                b.data<float>(), n, 0.0f, c.data<float>(), n);
    if (i > 0) samples.push_back(2.0 * n * n * n / seconds_since(start));
  }
  return samples;
}

}  // namespace

MachineLimits measure_machine_limits() {
  MachineLimits limits;
  limits.read_samples = read_samples();
  limits.read_bytes_per_second = median(limits.read_samples);
  for (const int n : {512, 1024, 2048}) {
    auto samples = sgemm_samples(n);
    const double rate = median(samples);
    if (rate <= limits.sgemm_flops_per_second) continue;
    limits.sgemm_flops_per_second = rate;
    limits.sgemm_samples = std::move(samples);
  }
  return limits;
}

}  // namespace metala::bench
