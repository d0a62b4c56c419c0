#include <benchmark/benchmark.h>

#include "metala/ops/rms_norm/rms_norm.h"

namespace metala {
namespace {

void rms_norm_forward(benchmark::State& state) {
  const Tensor x = Tensor::zeros({state.range(0), state.range(1)});
  const Tensor y = Tensor::zeros(x.shape());
  for (auto _ : state) rms_norm::forward(x, 1e-6, y);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(2 * x.bytes()));
}
BENCHMARK(rms_norm_forward)->Args({1, 1024})->Args({1024, 1024})->UseRealTime();

void rms_norm_backward(benchmark::State& state) {
  const Tensor y = Tensor::zeros({state.range(0), state.range(1)});
  const Tensor dy = Tensor::zeros(y.shape());
  const Tensor dx = Tensor::zeros(y.shape());
  const Tensor r = Tensor::zeros({y.size(0)});
  for (auto _ : state) rms_norm::backward(dy, y, r, dx);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(4 * y.bytes()));
}
BENCHMARK(rms_norm_backward)->Args({1024, 1024})->UseRealTime();

}  // namespace
}  // namespace metala
