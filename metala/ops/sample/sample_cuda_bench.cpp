// Choosing tokens from logits on a GPU: a row of 32,000 for each sequence of a batch.
#include "metala/harness/gpu_benchmark.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/sample/sample_cuda.h"

namespace metala::sample {
namespace {

void draw_on_gpu(benchmark::State& state) {
  harness::on_gpu(state, [&](Device gpu) {
    const std::int64_t batch = state.range(0);
    Options options;
    options.top_k = static_cast<std::int32_t>(state.range(1));
    options.top_p = static_cast<double>(state.range(2)) / 100;
    const Tensor logits =
        harness::random_normal({batch, 32000}, DType::f32, 1, /*deviation=*/3).to(gpu);
    const Tensor uniform = harness::filled({batch}, DType::f64, 0.5).to(gpu);
    const Tensor ids = Tensor::zeros({batch}, DType::i32, gpu);
    harness::time_on_gpu(state, gpu, static_cast<double>(logits.bytes()), [&] {
      if constexpr (cuda_built) {
        cuda::draw(options, logits, uniform.data<double>(), ids.data<std::int32_t>());
      }
    });
  });
}

BENCHMARK(draw_on_gpu)
    ->Name("sample/gpu/draw")
    ->ArgNames({"B", "k", "p%"})
    ->Args({1, 0, 100})
    ->Args({1, 50, 95})
    ->Args({64, 50, 95})
    ->Args({256, 50, 95})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond)
    ->MinTime(0.05);

}  // namespace
}  // namespace metala::sample
