#include <benchmark/benchmark.h>

#include "metala/ops/linear/linear.h"

namespace metala {
namespace {

// Decoding: the weights of a 64 MiB (f32) matrix, far beyond the caches of most machines.
void linear_decode(benchmark::State& state, DType type) {
  const Tensor x = Tensor::zeros({state.range(0), 1024});
  const Tensor w = Tensor::zeros({16384, 1024}, type);
  const Tensor y = Tensor::zeros({state.range(0), 16384});
  for (auto _ : state) linear::forward(x, w, {}, y);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(w.bytes()));
}
BENCHMARK_CAPTURE(linear_decode, f32, DType::f32)->Arg(1)->Arg(4)->Arg(8)->Arg(16)->UseRealTime();
BENCHMARK_CAPTURE(linear_decode, bf16, DType::bf16)->Arg(1)->Arg(4)->Arg(8)->Arg(16)->UseRealTime();
BENCHMARK_CAPTURE(linear_decode, q8, DType::q8)->Arg(1)->Arg(4)->Arg(8)->Arg(16)->UseRealTime();
BENCHMARK_CAPTURE(linear_decode, q4, DType::q4)->Arg(1)->Arg(4)->Arg(8)->Arg(16)->UseRealTime();

void linear_prefill(benchmark::State& state, DType type) {
  const Tensor x = Tensor::zeros({512, 1024});
  const Tensor w = Tensor::zeros({2816, 1024}, type);
  const Tensor y = Tensor::zeros({512, 2816});
  for (auto _ : state) linear::forward(x, w, {}, y);
  state.counters["flops"] =
      benchmark::Counter(2.0 * 512 * 1024 * 2816 * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate);
}
BENCHMARK_CAPTURE(linear_prefill, f32, DType::f32)->UseRealTime();
BENCHMARK_CAPTURE(linear_prefill, bf16, DType::bf16)->UseRealTime();
BENCHMARK_CAPTURE(linear_prefill, q8, DType::q8)->UseRealTime();
BENCHMARK_CAPTURE(linear_prefill, q4, DType::q4)->UseRealTime();

}  // namespace
}  // namespace metala
