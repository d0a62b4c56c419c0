#include <benchmark/benchmark.h>

#include <vector>

#include "metala/ops/cross_entropy/cross_entropy.h"

namespace metala {
namespace {

void cross_entropy_gradient(benchmark::State& state) {
  const std::int64_t rows = state.range(0), width = state.range(1), vocabulary = state.range(2);
  const Tensor x = Tensor::zeros({rows, width}), w = Tensor::zeros({vocabulary, width});
  const Tensor dx = Tensor::zeros(x.shape()), dw = Tensor::zeros(w.shape());
  const std::vector<std::int32_t> labels(static_cast<std::size_t>(rows), 1);
  const Tensor sums = cross_entropy::zero_sums({});
  for (auto _ : state) cross_entropy::forward_backward(x, w, labels, 1, dx, dw, sums);
  state.counters["flops"] =
      benchmark::Counter(6.0 * static_cast<double>(rows * width * vocabulary * state.iterations()),
                         benchmark::Counter::kIsRate);
}
BENCHMARK(cross_entropy_gradient)
    ->Args({1024, 1024, 32000})
    ->Args({4096, 256, 4096})
    ->UseRealTime();

}  // namespace
}  // namespace metala
