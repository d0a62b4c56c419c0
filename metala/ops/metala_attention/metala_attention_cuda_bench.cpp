// The sizes of docs/benchmarks.md, in bf16: the recurrence alone (q, u, v in; o and the final state
// out), and with everything that is local to a token.
#include "metala/harness/gpu_benchmark.h"
#include "metala/ops/metala_attention/metala_attention_chunk_cuda.h"
#include "metala/ops/metala_attention/metala_attention_problem.h"

namespace metala::metala_attention {
namespace {

void forward_on_gpu(benchmark::State& state) {
  harness::on_gpu(state, [&](Device gpu) {
    Problem p = {.lengths = std::vector<std::int64_t>(static_cast<std::size_t>(state.range(0)),
                                                      state.range(1)),
                 .heads = 8,
                 .key_width = state.range(2),
                 .value_width = state.range(3),
                 .carried = false};
    const bool whole = state.range(4) != 0;
    const Inputs in = inputs_of(p);
    const auto there = [&](const Tensor& t, DType type) { return t.cast(type).to(gpu); };
    const Inputs moved = {
        there(in.q, DType::bf16), there(in.u, DType::bf16),  {}, there(in.v, DType::bf16),
        there(in.z, DType::bf16), there(in.aug, DType::f32), {}, {}};
    const auto offsets = p.offsets();
    const Tensor copy = Tensor::zeros({p.batch() + 1}, DType::i64, gpu);
    copy.copy_from(Tensor::wrap(const_cast<std::int64_t*>(offsets.data()), {p.batch() + 1}));
    const Offsets mirrored(offsets, copy.data<std::int64_t>());
    const Tensor o = Tensor::zeros(p.value_rows(), DType::bf16, gpu);
    const Tensor after = Tensor::zeros(p.state(), DType::f32, gpu);
    const auto token_heads = static_cast<double>(p.tokens() * p.heads);
    // q, u, v, o; and z, in 16 bits.
    const auto elements = static_cast<double>(2 * p.key_width + (whole ? 3 : 2) * p.value_width);
    harness::time_on_gpu(state, gpu, token_heads * elements * 2, [&] {
      if (whole) return forward(p.options(), moved, mirrored, o, {}, after);
      if constexpr (cuda_built) {
        cuda::forward_in_chunks(p.options(), moved, mirrored, o, after);
      }
    });
  });
}

BENCHMARK(forward_on_gpu)
    ->Name("metala_attention/gpu/forward")
    ->ArgNames({"B", "T", "K", "D", "whole"})
    ->Args({8, 2048, 64, 128, 0})
    ->Args({32, 2048, 64, 128, 0})
    ->Args({1, 65536, 64, 128, 0})
    ->Args({8, 2048, 128, 256, 0})
    ->Args({8, 2048, 64, 128, 1})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond)
    ->MinTime(0.05);

void copy_on_gpu(benchmark::State& state) {
  harness::on_gpu(state, [&](Device gpu) {
    const Tensor from = Tensor::zeros({std::int64_t{1} << 30}, DType::u8, gpu);
    const Tensor to = Tensor::zeros({std::int64_t{1} << 30}, DType::u8, gpu);
    harness::time_on_gpu(state, gpu, 2.0 * (1 << 30), [&] { to.copy_from(from); });
  });
}

BENCHMARK(copy_on_gpu)
    ->Name("copy/gpu")
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond)
    ->MinTime(0.05);

}  // namespace
}  // namespace metala::metala_attention
