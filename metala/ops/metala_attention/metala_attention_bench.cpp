// Cases: prefill, decode, and the gradient of a training step, at the released model's head sizes.
//
// Flops counted for each token and head, multiply and add apart: forward 4 K D for the state and
// 17 (K + D) for the pairs within a block; by step 4 K D + K D; backward 12 K D + 17 (4 K + 2 D).
#include <benchmark/benchmark.h>

#include "metala/ops/metala_attention/metala_attention_problem.h"

namespace metala::metala_attention {
namespace {

Problem problem_of(const benchmark::State& state) {
  Problem p;
  p.lengths.assign(static_cast<std::size_t>(state.range(0)), state.range(1));
  p.heads = state.range(2);
  p.key_width = state.range(3);
  p.value_width = state.range(4);
  return p;
}

void report(benchmark::State& state, const Problem& p, double flops) {
  const auto token_heads =
      static_cast<double>(state.iterations()) * static_cast<double>(p.tokens() * p.heads);
  state.counters["token-heads"] = benchmark::Counter(token_heads, benchmark::Counter::kIsRate);
  state.counters["flops"] = benchmark::Counter(token_heads * flops, benchmark::Counter::kIsRate);
}

void metala_attention_forward(benchmark::State& state) {
  const Problem p = problem_of(state);
  const Inputs in = inputs_of(p);
  const auto offsets = p.offsets();
  const Result r = blank_result(p, DType::f32);
  for (auto _ : state) forward(p.options(), in, offsets, r.o, r.mixed, r.after);
  const auto keys = static_cast<double>(p.key_width);
  const auto values = static_cast<double>(p.value_width);
  report(state, p, 4 * keys * values + 17 * (keys + values));
}
BENCHMARK(metala_attention_forward)
    ->ArgNames({"B", "T", "H", "K", "D"})
    ->Args({1, 512, 8, 64, 128})
    ->Args({1, 512, 4, 128, 256})
    ->Args({1, 500, 8, 17, 33})
    ->UseRealTime();

// One token for each sequence, the state updated in place: states of all sequences are read and
// written once. B1 stays in the second-level cache, as it would not between layers of a model.
void metala_attention_decode(benchmark::State& state) {
  const Problem p = problem_of(state);
  const Inputs in = inputs_of(p);
  const auto offsets = p.offsets();
  const Result r = blank_result(p, DType::f32);
  for (auto _ : state) forward(p.options(), in, offsets, r.o, {}, in.before);
  report(state, p, 5 * static_cast<double>(p.key_width * p.value_width));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(2 * in.before.bytes()));
}
BENCHMARK(metala_attention_decode)
    ->ArgNames({"B", "T", "H", "K", "D"})
    ->Args({1, 1, 8, 64, 128})
    ->Args({16, 1, 8, 64, 128})
    ->Args({256, 1, 8, 64, 128})
    ->UseRealTime();

void metala_attention_backward(benchmark::State& state) {
  const Problem p = problem_of(state);
  const Inputs in = inputs_of(p);
  const auto offsets = p.offsets();
  const Tensor mixed = run_forward(p, in).mixed;
  const Cotangents c = cotangents_of(p, DType::f32);
  const Gradients to = gradients_like(p, in);
  for (auto _ : state) backward(p.options(), in, offsets, mixed, c.o, c.after, to);
  const auto keys = static_cast<double>(p.key_width);
  const auto values = static_cast<double>(p.value_width);
  report(state, p, 12 * keys * values + 17 * (4 * keys + 2 * values));
}
BENCHMARK(metala_attention_backward)
    ->ArgNames({"B", "T", "H", "K", "D"})
    ->Args({1, 1024, 8, 64, 128})
    ->Args({1, 512, 4, 128, 256})
    ->UseRealTime();

}  // namespace
}  // namespace metala::metala_attention
