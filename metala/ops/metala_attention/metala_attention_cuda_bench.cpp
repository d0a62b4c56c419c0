// The sizes of docs/benchmarks.md, in bf16: the recurrence alone (q, u, v in; o and the final state
// out), and with everything that is local to a token.
#include "metala/harness/gpu_benchmark.h"
#include "metala/ops/metala_attention/metala_attention_chunk_cuda.h"
#include "metala/ops/metala_attention/metala_attention_problem.h"

namespace metala::metala_attention {
namespace {

// A problem of the benchmark's arguments, its inputs in bf16 on the GPU: rows that repeat.
struct Case {
  Problem problem;
  Inputs in;
  std::vector<std::int64_t> offsets;
  Tensor mirror;

  Case(const benchmark::State& state, Device gpu, DType type = DType::bf16) {
    problem = {.lengths = std::vector<std::int64_t>(static_cast<std::size_t>(state.range(0)),
                                                    state.range(1)),
               .heads = 8,
               .key_width = state.range(2),
               .value_width = state.range(3),
               .carried = false};
    Problem little = problem;
    little.lengths = {1024};
    const Inputs here = inputs_of(little);
    const auto there = [&](const Tensor& t, DType to) {
      const Tensor part = t.cast(to).to(gpu);
      if (t.rank() != 2 || t.size(0) != 1024) return part;
      const Tensor whole = Tensor::zeros({problem.tokens(), t.size(1)}, to, gpu);
      for (std::int64_t n = 0; n < problem.tokens(); n += 1024) {
        whole.rows(n, n + 1024).copy_from(part);
      }
      return whole;
    };
    in = {there(here.q, type), there(here.u, type),         {}, there(here.v, type),
          there(here.z, type), there(here.aug, DType::f32), {}, {}};
    offsets = problem.offsets();
    mirror = Tensor::zeros({problem.batch() + 1}, DType::i64, gpu);
    mirror.copy_from(Tensor::wrap(offsets.data(), {problem.batch() + 1}));
  }
  Offsets mirrored() const { return {offsets, mirror.data<std::int64_t>()}; }
  double token_heads() const { return static_cast<double>(problem.tokens() * problem.heads); }
};

void forward_on_gpu(benchmark::State& state) {
  harness::on_gpu(state, [&](Device gpu) {
    const Case c(state, gpu);
    const Problem& p = c.problem;
    const bool whole = state.range(4) != 0;
    const Tensor o = Tensor::zeros(p.value_rows(), DType::bf16, gpu);
    const Tensor after = Tensor::zeros(p.state(), DType::f32, gpu);
    // q, u, v, o; and z, in 16 bits.
    const auto elements = static_cast<double>(2 * p.key_width + (whole ? 3 : 2) * p.value_width);
    harness::time_on_gpu(state, gpu, c.token_heads() * elements * 2, [&] {
      if (whole) return forward(p.options(), c.in, c.mirrored(), o, {}, after);
      if constexpr (cuda_built) {
        cuda::forward_in_chunks(p.options(), c.in, c.mirrored(), o, after, {});
      }
    });
  });
}

// The recurrence alone, there and back: q, u, v and the gradient of its outputs in, their gradients
// out.
void both_on_gpu(benchmark::State& state) {
  harness::on_gpu(state, [&](Device gpu) {
    const Case c(state, gpu);
    const Problem& p = c.problem;
    const auto like = [&](const Tensor& t) { return Tensor::zeros(t.shape(), t.dtype(), gpu); };
    const Tensor o = like(c.in.v);
    const Tensor after = Tensor::zeros(p.state(), DType::f32, gpu);
    Gradients to = {like(c.in.q), like(c.in.u), {}, like(c.in.v), {}, {}, {}, {}};
    to.tokens = Write::overwrite;
    const Tensor states =
        Tensor::zeros(states_shape(p.options(), c.in, c.mirrored()), DType::bf16, gpu);
    const auto elements = static_cast<double>(6 * p.key_width + 5 * p.value_width);
    harness::time_on_gpu(state, gpu, c.token_heads() * elements * 2, [&] {
      if constexpr (cuda_built) {
        cuda::forward_in_chunks(p.options(), c.in, c.mirrored(), o, after, states);
        cuda::backward_in_chunks(p.options(), c.in, c.mirrored(), {}, c.in.z, {}, to, states);
      }
    });
  });
}

// The whole op in a type.
void forward_in(benchmark::State& state, DType type) {
  harness::on_gpu(state, [&](Device gpu) {
    const Case c(state, gpu, type);
    const Problem& p = c.problem;
    const Tensor o = Tensor::zeros(p.value_rows(), type, gpu);
    const Tensor mixed = Tensor::zeros(p.value_rows(), type, gpu);
    // q, u, v, z, o, mixed
    const auto elements = static_cast<double>(2 * p.key_width + 4 * p.value_width);
    const auto size = static_cast<double>(bytes_of(type, 1));
    harness::time_on_gpu(state, gpu, c.token_heads() * elements * size,
                         [&] { forward(p.options(), c.in, c.mirrored(), o, mixed, {}); });
  });
}

// The whole op's gradient.
void backward_in(benchmark::State& state, DType type) {
  harness::on_gpu(state, [&](Device gpu) {
    const Case c(state, gpu, type);
    const Problem& p = c.problem;
    const auto like = [&](const Tensor& t) { return Tensor::zeros(t.shape(), t.dtype(), gpu); };
    const Tensor mixed = c.in.v.copy();
    const Tensor dout = c.in.z.copy();
    const Gradients to = {like(c.in.q),   like(c.in.u), {}, like(c.in.v),    like(c.in.z),
                          like(c.in.aug), {},           {}, Write::overwrite};
    // q, u, v, z, mixed, do in; the gradients of q, u, v, z out.
    const auto elements = static_cast<double>(4 * p.key_width + 6 * p.value_width);
    const auto size = static_cast<double>(bytes_of(type, 1));
    harness::time_on_gpu(state, gpu, c.token_heads() * elements * size,
                         [&] { backward(p.options(), c.in, c.mirrored(), mixed, dout, {}, to); });
  });
}

void backward_on_gpu(benchmark::State& state) {
  backward_in(state, DType::bf16);
}

// Sizes that the chunk forms are not compiled for, and f32.
void untuned_forward_on_gpu(benchmark::State& state) {
  forward_in(state, state.range(4) == 32 ? DType::f32 : DType::bf16);
}
void untuned_backward_on_gpu(benchmark::State& state) {
  backward_in(state, state.range(4) == 32 ? DType::f32 : DType::bf16);
}
void untuned(benchmark::internal::Benchmark* b) {
  b->ArgNames({"B", "T", "K", "D", "bits"})
      ->Args({8, 2048, 32, 64, 16})
      ->Args({8, 2048, 48, 96, 16})
      ->Args({8, 2048, 100, 200, 16})
      ->Args({8, 2048, 64, 64, 32})
      ->Args({8, 2048, 64, 128, 32})
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->MinTime(0.05);
}

BENCHMARK(untuned_forward_on_gpu)->Name("metala_attention/gpu/untuned/forward")->Apply(untuned);
BENCHMARK(untuned_backward_on_gpu)->Name("metala_attention/gpu/untuned/backward")->Apply(untuned);

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

BENCHMARK(both_on_gpu)
    ->Name("metala_attention/gpu/forward+backward")
    ->ArgNames({"B", "T", "K", "D"})
    ->Args({8, 2048, 64, 128})
    ->Args({32, 2048, 64, 128})
    ->Args({1, 65536, 64, 128})
    ->Args({8, 2048, 128, 256})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond)
    ->MinTime(0.05);

BENCHMARK(backward_on_gpu)
    ->Name("metala_attention/gpu/backward")
    ->ArgNames({"B", "T", "K", "D"})
    ->Args({16, 2048, 64, 128})
    ->Args({1, 32768, 64, 128})
    ->Args({16, 2048, 128, 256})
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
