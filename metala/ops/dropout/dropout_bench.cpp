#include <benchmark/benchmark.h>

#include "metala/ops/dropout/dropout.h"

namespace metala {
namespace {

void dropout_forward(benchmark::State& state) {
  const Tensor x = Tensor::zeros({1024, 1024}), y = Tensor::zeros(x.shape());
  for (auto _ : state) dropout::forward({0.1, 1, 2}, x, y);
  state.SetItemsProcessed(state.iterations() * x.count());
}
BENCHMARK(dropout_forward)->UseRealTime();

}  // namespace
}  // namespace metala
