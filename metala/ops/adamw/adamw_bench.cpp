#include <benchmark/benchmark.h>

#include "metala/ops/adamw/adamw.h"

namespace metala {
namespace {

void adamw_update(benchmark::State& state) {
  const Shape shape = {10'000'000};
  const adamw::Slot slot = {
      "p", Tensor::zeros(shape), Tensor::zeros(shape), Tensor::zeros(shape), Tensor::zeros(shape),
      true};
  const Tensor norm = Tensor::zeros({1}, DType::f64);
  for (auto _ : state) adamw::update({}, {&slot, 1}, norm);
  state.SetBytesProcessed(state.iterations() * 28 * slot.parameter.count());
}
BENCHMARK(adamw_update)->UseRealTime();

void adamw_global_norm(benchmark::State& state) {
  const Tensor g = Tensor::zeros({10'000'000});
  for (auto _ : state) benchmark::DoNotOptimize(adamw::global_norm({&g, 1}));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(g.bytes()));
}
BENCHMARK(adamw_global_norm)->UseRealTime();

}  // namespace
}  // namespace metala
