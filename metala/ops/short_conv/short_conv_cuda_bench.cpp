// The size of docs/benchmarks.md, in bf16.
#include "metala/harness/gpu_benchmark.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/short_conv/short_conv.h"

namespace metala {
namespace {

// With `back` the gradient too.
void short_conv_on_gpu(benchmark::State& state) {
  harness::on_gpu(state, [&](Device gpu) {
    const bool back = state.range(3) != 0;
    const Shape shape = {state.range(0) * state.range(1), state.range(2)};
    const auto random = [&](std::uint64_t seed) {
      const Tensor part = harness::random_normal({1024, shape[1]}, DType::f32, seed);
      const Tensor there = part.cast(DType::bf16).to(gpu);
      const Tensor whole = Tensor::zeros(shape, DType::bf16, gpu);
      for (std::int64_t n = 0; n < shape[0]; n += 1024) whole.rows(n, n + 1024).copy_from(there);
      return whole;
    };
    const Tensor x = random(1), dy = random(2);
    const Tensor y = Tensor::zeros(shape, DType::bf16, gpu);
    const Tensor dx = Tensor::zeros(shape, DType::bf16, gpu);
    const Tensor weight = harness::random_normal({shape[1], 4}, DType::f32, 3).to(gpu);
    const Tensor dweight = Tensor::zeros({shape[1], 4}, DType::f32, gpu);
    std::vector<std::int64_t> offsets;
    for (std::int64_t b = 0; b <= state.range(0); ++b) offsets.push_back(b * state.range(1));
    const Tensor there = Tensor::zeros({state.range(0) + 1}, DType::i64, gpu);
    there.copy_from(Tensor::wrap(offsets.data(), {state.range(0) + 1}));
    const Offsets mirrored = {offsets, there.data<std::int64_t>()};
    const double touched = static_cast<double>(x.bytes()) * (back ? 5 : 2);
    harness::time_on_gpu(state, gpu, touched, [&] {
      short_conv::forward(x, weight, mirrored, {}, y, {});
      if (!back) return;
      short_conv::backward(dy, x, weight, mirrored, {}, {}, dx, dweight, {}, Write::overwrite);
    });
  });
}

BENCHMARK(short_conv_on_gpu)
    ->Name("short_conv/gpu")
    ->ArgNames({"B", "T", "d", "back"})
    ->Args({16, 2048, 1024, 0})
    ->Args({16, 2048, 1024, 1})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond)
    ->MinTime(0.05);

}  // namespace
}  // namespace metala
