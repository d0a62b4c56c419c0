#include <benchmark/benchmark.h>

#include <vector>

#include "metala/ops/short_conv/short_conv.h"

namespace metala {
namespace {

const std::vector<std::int64_t> sequence = {0, 1024};

void short_conv_forward(benchmark::State& state) {
  const Tensor x = Tensor::zeros({1024, 1024}), w = Tensor::zeros({1024, 4});
  const Tensor y = Tensor::zeros(x.shape());
  for (auto _ : state) short_conv::forward(x, w, sequence, {}, y, {});
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(2 * x.bytes()));
}
BENCHMARK(short_conv_forward)->UseRealTime();

void short_conv_backward(benchmark::State& state) {
  const Tensor x = Tensor::zeros({1024, 1024}), w = Tensor::zeros({1024, 4});
  const Tensor dx = Tensor::zeros(x.shape()), dw = Tensor::zeros(w.shape());
  for (auto _ : state) short_conv::backward(x, x, w, sequence, {}, {}, dx, dw, {});
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(4 * x.bytes()));
}
BENCHMARK(short_conv_backward)->UseRealTime();

}  // namespace
}  // namespace metala
