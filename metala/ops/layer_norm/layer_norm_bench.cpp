#include <benchmark/benchmark.h>

#include "metala/ops/layer_norm/layer_norm.h"

namespace metala {
namespace {

void layer_norm_forward(benchmark::State& state) {
  const Tensor x = Tensor::zeros({1024, 1024}), y = Tensor::zeros(x.shape());
  const Tensor w = Tensor::zeros({1024});
  for (auto _ : state) layer_norm::forward(x, w, w, 1e-5, y);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(2 * x.bytes()));
}
BENCHMARK(layer_norm_forward)->UseRealTime();

void layer_norm_backward(benchmark::State& state) {
  const Tensor x = Tensor::zeros({1024, 1024}), dx = Tensor::zeros(x.shape());
  const Tensor w = Tensor::zeros({1024}), dw = Tensor::zeros({1024}), db = Tensor::zeros({1024});
  for (auto _ : state) layer_norm::backward(x, x, w, w, w, dx, dw, db);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(4 * x.bytes()));
}
BENCHMARK(layer_norm_backward)->UseRealTime();

}  // namespace
}  // namespace metala
