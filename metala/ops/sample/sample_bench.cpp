#include <benchmark/benchmark.h>

#include "metala/ops/sample/sample.h"

namespace metala {
namespace {

// Logits spread like a language model's.
std::vector<float> spread_logits(std::int64_t vocabulary) {
  std::vector<float> logits;
  for (std::int64_t i = 0; i < vocabulary; ++i) {
    logits.push_back(static_cast<float>(i * 7919 % 1000) / 100 - 5);
  }
  return logits;
}

void sample_next(benchmark::State& state, double top_p, std::int32_t top_k) {
  const auto logits = spread_logits(state.range(0));
  sample::Options options;
  options.top_p = top_p;
  options.top_k = top_k;
  std::uint64_t position = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(sample::next(options, logits, {}, {0, position++}));
  }
}
BENCHMARK_CAPTURE(sample_next, plain, 1.0, 0)->Arg(32000)->Arg(100000);
BENCHMARK_CAPTURE(sample_next, top_p, 0.9, 0)->Arg(32000)->Arg(100000);
BENCHMARK_CAPTURE(sample_next, top_k, 1.0, 50)->Arg(32000)->Arg(100000);

}  // namespace
}  // namespace metala
