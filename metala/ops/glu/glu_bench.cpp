#include <benchmark/benchmark.h>

#include "metala/ops/glu/glu.h"

namespace metala {
namespace {

void glu_forward(benchmark::State& state) {
  const Tensor a = Tensor::zeros({1024, 2816}), b = Tensor::zeros(a.shape());
  const Tensor y = Tensor::zeros(a.shape());
  for (auto _ : state) glu::forward(glu::Activation::silu, a, b, y);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(3 * a.bytes()));
}
BENCHMARK(glu_forward)->UseRealTime();

void glu_backward(benchmark::State& state) {
  const Tensor a = Tensor::zeros({1024, 2816}), b = Tensor::zeros(a.shape());
  const Tensor da = Tensor::zeros(a.shape()), db = Tensor::zeros(a.shape());
  for (auto _ : state) glu::backward(glu::Activation::silu, a, b, a, da, db);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(7 * a.bytes()));
}
BENCHMARK(glu_backward)->UseRealTime();

}  // namespace
}  // namespace metala
