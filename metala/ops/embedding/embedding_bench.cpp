#include <benchmark/benchmark.h>

#include "metala/ops/embedding/embedding.h"

namespace metala {
namespace {

std::vector<std::int32_t> spread_ids() {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 1024; ++i) ids.push_back(i * 31 % 32000);
  return ids;
}

void embedding_forward(benchmark::State& state) {
  const auto ids = spread_ids();
  const Tensor table = Tensor::zeros({32000, 1024}), y = Tensor::zeros({1024, 1024});
  for (auto _ : state) embedding::forward(ids, table, 1, y);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(2 * y.bytes()));
}
BENCHMARK(embedding_forward)->UseRealTime();

void embedding_backward(benchmark::State& state) {
  const auto ids = spread_ids();
  const Tensor dtable = Tensor::zeros({32000, 1024}), dy = Tensor::zeros({1024, 1024});
  for (auto _ : state) embedding::backward(ids, dy, 1, dtable);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(3 * dy.bytes()));
}
BENCHMARK(embedding_backward)->UseRealTime();

}  // namespace
}  // namespace metala
