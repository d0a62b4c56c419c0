#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/ops/metala_attention/metala_attention_problem.h"

namespace metala::metala_attention {
namespace {

using harness::close;

class MetalaAttentionOnGpu : public harness::GpuTest {
 protected:
  // Token matrices in `type`, parameters and states in f32, on the GPU.
  Inputs moved(const Inputs& in, DType type) const {
    return {there(in.q, type), there(in.u, type), there(in.k, type),     there(in.v, type),
            there(in.z, type), there(in.aug),     there(in.fixed_decay), there(in.before)};
  }

  Result run(const Problem& p, const Inputs& in, DType type) {
    Result r = blank_result(p, DType::f32);
    r = {there(r.o, type), there(r.mixed, type), there(r.after)};
    const auto offsets = p.offsets();
    forward(p.options(), moved(in, type), mirrored(offsets), r.o, r.mixed, r.after);
    return {r.o.to({}), r.mixed.to({}), r.after.defined() ? r.after.to({}) : r.after};
  }

  // Against the reference in double on the inputs as the GPU sees them, rounded to `type`.
  void expect_agreement(const Problem& p, DType type, double mixed_bound, double state_bound) {
    SCOPED_TRACE(p.text());
    Inputs in = inputs_of(p);
    const auto round = [type](Tensor& t) {
      if (t.defined()) t = t.cast(type).cast(DType::f32);
    };
    for (Tensor* t : {&in.q, &in.u, &in.k, &in.v, &in.z}) round(*t);
    const Result want = run_forward(p, cast(in, DType::f64));
    const Result got = run(p, in, type);
    EXPECT_TRUE(close(got.mixed, want.mixed, mixed_bound));
    if (!p.bidirectional) {
      EXPECT_TRUE(close(got.after, want.after, state_bound));
    }
  }

  // From the states that a forward pass leaves, or without them.
  Gradients gradients(const Problem& p, const Inputs& in, const Tensor& mixed, DType type,
                      bool from_states = false) {
    const Cotangents c = cotangents_of(p, DType::f32);
    const auto start = gradients_like(p, in, 0.25);
    const Gradients to = {there(start.q, type),     there(start.u, type), there(start.k, type),
                          there(start.v, type),     there(start.z, type), there(start.aug),
                          there(start.fixed_decay), there(start.before)};
    const auto offsets = p.offsets();
    const Inputs inputs = moved(in, type);
    Tensor states;
    if (from_states) {
      states =
          there(harness::poisoned(states_shape(p.options(), inputs, mirrored(offsets)), DType::f32),
                DType::bf16);
      forward(p.options(), inputs, mirrored(offsets), there(mixed, type), {}, {}, states);
    }
    backward(p.options(), inputs, mirrored(offsets), there(mixed, type), there(c.o, type),
             there(c.after), to, states);
    return to;
  }

  // Gradients against the reference in double, on the same inputs, mixed values and cotangents.
  void expect_gradients(const Problem& p, DType type, double bound) {
    SCOPED_TRACE(p.text());
    Inputs in = inputs_of(p);
    const auto round = [type](Tensor& t) {
      if (t.defined()) t = t.cast(type).cast(DType::f32);
    };
    for (Tensor* t : {&in.q, &in.u, &in.k, &in.v, &in.z}) round(*t);
    const Inputs exact = cast(in, DType::f64);
    Tensor mixed = run_forward(p, exact).mixed.cast(DType::f32);
    round(mixed);
    Cotangents c = cotangents_of(p, DType::f32);
    round(c.o);
    const Gradients want = gradients_like(p, exact, 0.25);
    backward(p.options(), exact, p.offsets(), mixed.cast(DType::f64), c.o.cast(DType::f64),
             c.after.defined() ? c.after.cast(DType::f64) : c.after, want);
    const auto wanted = named(want);
    for (const bool from_states : {false, true}) {
      if (from_states && !leaves_states(p, in, type)) continue;
      const auto got = named(gradients(p, in, mixed, type, from_states));
      for (std::size_t i = 0; i < got.size(); ++i) {
        if (!wanted[i].second.defined()) continue;
        EXPECT_TRUE(close(got[i].second.to({}), wanted[i].second, bound))
            << wanted[i].first << (from_states ? ", from the states of a forward pass" : "");
      }
    }
  }

  bool leaves_states(const Problem& p, const Inputs& in, DType type) {
    const auto offsets = p.offsets();
    return states_shape(p.options(), moved(in, type), mirrored(offsets)).count() > 0;
  }
};

TEST_F(MetalaAttentionOnGpu, FloatsAgreeWithTheReferenceForEveryGateAndLength) {
  for (const auto gates : all_gate_patterns) {
    for (const std::int64_t length : {1, 15, 16, 17, 63, 64, 65, 200}) {
      for (const bool tied : {true, false}) {
        expect_agreement({.lengths = {length},
                          .key_width = 17,
                          .value_width = 33,
                          .tied = tied,
                          .gates = gates,
                          .seed = static_cast<std::uint64_t>(length)},
                         DType::f32, 2e-6, 2e-6);
      }
    }
  }
}

TEST_F(MetalaAttentionOnGpu, FloatsAgreeWithTheReferenceForEverySize) {
  const std::pair<std::int64_t, std::int64_t> sizes[] = {
      {1, 1},   {3, 5},     {16, 16},   {32, 32},   {64, 64},   {64, 128},
      {17, 33}, {128, 128}, {128, 256}, {200, 130}, {256, 256}, {256, 1}};
  for (const auto& [key_width, value_width] : sizes) {
    expect_agreement({.lengths = {33}, .key_width = key_width, .value_width = value_width},
                     DType::f32, 2e-6, 2e-6);
  }
}

TEST_F(MetalaAttentionOnGpu, FloatsAgreeWithTheReferenceForEveryOption) {
  for (const auto decay : {Decay::dynamic, Decay::fixed, Decay::none}) {
    for (int options = 0; options < 32; ++options) {
      Problem p = {.lengths = {33, 0, 5, 16}, .key_width = 5, .value_width = 9, .decay = decay};
      p.tied = (options & 1) != 0 && decay != Decay::none;
      p.augmented = (options & 2) != 0;
      p.gated = (options & 4) != 0;
      p.bidirectional = (options & 8) != 0;
      p.carried = (options & 16) != 0;
      expect_agreement(p, DType::f32, 2e-6, 2e-6);
    }
  }
}

TEST_F(MetalaAttentionOnGpu, FloatsAgreeWithTheReferenceOverAHundredThousandTokens) {
  for (const auto gates : {GatePattern::normal, GatePattern::remembering, GatePattern::half_cut}) {
    expect_agreement(
        {.lengths = {100'000}, .heads = 1, .key_width = 2, .value_width = 3, .gates = gates},
        DType::f32, 2e-5, 2e-5);
  }
}

TEST_F(MetalaAttentionOnGpu, Bf16AgreesWithTheReferenceForEveryGate) {
  for (const auto gates : all_gate_patterns) {
    for (const auto& [key_width, value_width] : {std::pair<std::int64_t, std::int64_t>{64, 128},
                                                 {128, 256},
                                                 {128, 128},
                                                 {64, 64},
                                                 {32, 32},
                                                 {32, 64},
                                                 {17, 33}}) {
      expect_agreement({.lengths = {100, 1, 0, 230},
                        .key_width = key_width,
                        .value_width = value_width,
                        .gates = gates},
                       DType::bf16, 1.5e-2, 1e-2);
    }
  }
}

TEST_F(MetalaAttentionOnGpu, Bf16AgreesWithTheReferenceForEveryTemperature) {
  for (const double temperature : {0.01, 0.3, 1.0, 1000.0}) {
    for (const auto gates :
         {GatePattern::normal, GatePattern::remembering, GatePattern::forgetting}) {
      expect_agreement({.lengths = {150},
                        .key_width = 64,
                        .value_width = 128,
                        .gates = gates,
                        .temperature = temperature},
                       DType::bf16, 1.5e-2, 1e-2);
    }
  }
}

// Long enough to be cut into segments, and with lengths that end within a chunk.
TEST_F(MetalaAttentionOnGpu, Bf16AgreesWithTheReferenceAcrossSegments) {
  for (const auto gates : {GatePattern::normal, GatePattern::remembering, GatePattern::one_cut}) {
    expect_agreement({.lengths = {1500, 3, 700},
                      .heads = 1,
                      .key_width = 64,
                      .value_width = 128,
                      .gates = gates},
                     DType::bf16, 1.5e-2, 1e-2);
  }
}

// More pieces of a sequence than are joined at once.
TEST_F(MetalaAttentionOnGpu, Bf16AgreesWithTheReferenceAcrossManySegments) {
  const Problem p = {.lengths = {6000, 300}, .heads = 1, .key_width = 32, .value_width = 32};
  expect_agreement(p, DType::bf16, 1.5e-2, 1e-2);
  expect_gradients(p, DType::bf16, 2e-2);
}

TEST_F(MetalaAttentionOnGpu, GradientsInFloatsAgreeWithTheReferenceForEveryGateAndLength) {
  for (const auto gates : all_gate_patterns) {
    for (const std::int64_t length : {1, 16, 17, 64, 65, 200}) {
      for (const bool tied : {true, false}) {
        expect_gradients({.lengths = {length},
                          .key_width = 17,
                          .value_width = 33,
                          .tied = tied,
                          .gates = gates,
                          .seed = static_cast<std::uint64_t>(length)},
                         DType::f32, 3e-5);
      }
    }
  }
}

TEST_F(MetalaAttentionOnGpu, GradientsInFloatsAgreeWithTheReferenceForEverySize) {
  const std::pair<std::int64_t, std::int64_t> sizes[] = {
      {1, 1},   {3, 5},     {16, 16},   {32, 32},   {64, 64},   {64, 128},
      {17, 33}, {128, 128}, {128, 256}, {200, 130}, {256, 256}, {256, 1}};
  for (const auto& [key_width, value_width] : sizes) {
    expect_gradients({.lengths = {33}, .key_width = key_width, .value_width = value_width},
                     DType::f32, 3e-5);
  }
}

TEST_F(MetalaAttentionOnGpu, GradientsInFloatsAgreeWithTheReferenceForEveryOption) {
  for (const auto decay : {Decay::dynamic, Decay::fixed, Decay::none}) {
    for (int options = 0; options < 32; ++options) {
      Problem p = {.lengths = {33, 0, 5, 70}, .key_width = 64, .value_width = 9, .decay = decay};
      p.tied = (options & 1) != 0 && decay != Decay::none;
      p.augmented = (options & 2) != 0;
      p.gated = (options & 4) != 0;
      p.bidirectional = (options & 8) != 0;
      p.carried = (options & 16) != 0;
      expect_gradients(p, DType::f32, 3e-5);
    }
  }
}

TEST_F(MetalaAttentionOnGpu, GradientsInBf16AgreeWithTheReferenceForEveryGate) {
  for (const auto gates : all_gate_patterns) {
    for (const auto& [key_width, value_width] : {std::pair<std::int64_t, std::int64_t>{64, 128},
                                                 {128, 256},
                                                 {128, 128},
                                                 {64, 64},
                                                 {32, 32},
                                                 {32, 64},
                                                 {17, 33}}) {
      expect_gradients({.lengths = {100, 1, 0, 230},
                        .key_width = key_width,
                        .value_width = value_width,
                        .gates = gates},
                       DType::bf16, 2e-2);
    }
  }
}

// Cut into segments, with lengths that end within a chunk.
TEST_F(MetalaAttentionOnGpu, GradientsInBf16AgreeWithTheReferenceAcrossSegments) {
  const Problem p = {.lengths = {1500, 3, 700}, .heads = 1, .key_width = 64, .value_width = 128};
  EXPECT_TRUE(leaves_states(p, inputs_of(p), DType::bf16));
  expect_gradients(p, DType::bf16, 2e-2);
}

// Walks with rows made once: in segments of a few chunks, and with more heads than segments are
// made for, some of which end within a chunk, after one, or before it.
TEST_F(MetalaAttentionOnGpu, Bf16AgreesWithTheReferenceForWideHeadsOfManyChunks) {
  Problem many = {.lengths = {}, .heads = 1, .key_width = 128, .value_width = 256};
  for (std::int64_t i = 0; i < 68; ++i) many.lengths.push_back(i * 37 % 201);
  Problem few = many;
  few.lengths = {1500, 3, 700};
  for (Problem p : {many, few}) {
    p.gates = GatePattern::half_cut;
    expect_agreement(p, DType::bf16, 1.5e-2, 1e-2);
    p.gates = GatePattern::normal;
    expect_agreement(p, DType::bf16, 1.5e-2, 1e-2);
    expect_gradients(p, DType::bf16, 2e-2);
  }
}

// More than a warp looks at in one step.
TEST_F(MetalaAttentionOnGpu, GradientsInBf16AgreeWithTheReferenceForManySequences) {
  Problem p = {.lengths = {}, .heads = 1, .key_width = 64, .value_width = 64};
  for (std::int64_t i = 0; i < 70; ++i) p.lengths.push_back(i * 7 % 90);
  expect_gradients(p, DType::bf16, 2e-2);
}

// From the mixed values of its own forward pass.
TEST_F(MetalaAttentionOnGpu, OutputsAndGradientsAreExactWhereTheStateHoldsLittle) {
  for (const auto& [type, bound] : {std::pair{DType::f32, 1e-5}, {DType::bf16, 2e-2}}) {
    const Problem p = holding_little(64, 128);
    Inputs in = inputs_of(p);
    for (Tensor* t : {&in.q, &in.u, &in.v, &in.z}) *t = t->cast(type).cast(DType::f32);
    const Inputs exact = cast(in, DType::f64);
    Cotangents c = cotangents_of(p, DType::f32);
    c.o = c.o.cast(type).cast(DType::f64);
    const Result want = run_forward(p, exact);
    const Gradients wanted = gradients_like(p, exact, 0.25);
    backward(p.options(), exact, p.offsets(), want.mixed, c.o, {}, wanted);
    const Result got = run(p, in, type);
    EXPECT_TRUE(close(got.o, want.o, bound));
    const auto to = named(gradients(p, in, got.mixed, type));
    for (std::size_t i = 0; i < to.size(); ++i) {
      if (!to[i].second.defined()) continue;
      EXPECT_TRUE(close(to[i].second.to({}), named(wanted)[i].second, bound)) << to[i].first;
    }
  }
}

TEST_F(MetalaAttentionOnGpu, TheSameInputsGiveTheSameGradients) {
  for (const std::int64_t key_width : {64, 128}) {
    const Problem p = {.lengths = {300, 77}, .key_width = key_width, .value_width = 2 * key_width};
    const Inputs in = inputs_of(p);
    const Tensor mixed = run_forward(p, in).mixed;
    const auto first = named(gradients(p, in, mixed, DType::bf16));
    const auto second = named(gradients(p, in, mixed, DType::bf16));
    for (std::size_t i = 0; i < first.size(); ++i) {
      if (!first[i].second.defined()) continue;
      EXPECT_TRUE(harness::same_bits(first[i].second.to({}), second[i].second.to({})))
          << first[i].first;
    }
  }
}

// In shares and row by row, in the memory of its gradient.
TEST_F(MetalaAttentionOnGpu, TheOutputIsFoundAgain) {
  for (const auto& [type, bound] : {std::pair{DType::f32, 1e-5}, {DType::bf16, 2e-2}}) {
    for (const bool gated : {true, false}) {
      const Problem p = {.lengths = {30, 70}, .key_width = 64, .value_width = 128, .gated = gated};
      SCOPED_TRACE(p.text());
      const Inputs in = inputs_of(p);
      const Result forth = run(p, in, type);
      const Tensor dout = there(cotangents_of(p, DType::f32).o, type);
      Gradients to = gradients_like(p, in, 0);
      for (Tensor* t : {&to.q, &to.u, &to.k, &to.v, &to.z}) *t = there(*t, type);
      for (Tensor* t : {&to.aug, &to.fixed_decay, &to.before}) *t = there(*t);
      to.o = dout;
      const auto offsets = p.offsets();
      backward(p.options(), moved(in, type), mirrored(offsets), there(forth.mixed), dout,
               there(cotangents_of(p, DType::f32).after), to);
      EXPECT_TRUE(close(to.o.to({}), forth.o.cast(DType::f64), bound));
    }
  }
}

// In chunks and token by token, with everything and with the least.
TEST_F(MetalaAttentionOnGpu, OverwritingNeedsNoZeros) {
  for (const std::int64_t key_width : {64, 17}) {
    for (const bool whole : {true, false}) {
      const Problem p = {.lengths = {300, 0, 77},
                         .key_width = key_width,
                         .value_width = 64,
                         .augmented = whole,
                         .gated = whole};
      SCOPED_TRACE(p.text());
      const Inputs in = inputs_of(p);
      const Tensor mixed = there(run_forward(p, in).mixed, DType::bf16);
      const Cotangents c = cotangents_of(p, DType::f32);
      const auto offsets = p.offsets();
      const auto run = [&](bool overwrite) {
        Gradients to = gradients_like(p, in, 0);
        for (Tensor* t : {&to.q, &to.u, &to.k, &to.v, &to.z}) {
          if (t->defined() && overwrite) *t = harness::poisoned(t->shape(), DType::f32);
          *t = there(*t, DType::bf16);
        }
        for (Tensor* t : {&to.aug, &to.fixed_decay, &to.before}) *t = there(*t);
        to.tokens = overwrite ? Write::overwrite : Write::accumulate;
        backward(p.options(), moved(in, DType::bf16), mirrored(offsets), mixed,
                 there(c.o, DType::bf16), there(c.after), to);
        return named(to);
      };
      const auto written = run(true);
      const auto added = run(false);
      for (std::size_t i = 0; i < written.size(); ++i) {
        if (!written[i].second.defined()) continue;
        EXPECT_TRUE(harness::same_bits(written[i].second.to({}), added[i].second.to({})))
            << written[i].first;
      }
    }
  }
}

TEST_F(MetalaAttentionOnGpu, TheSameInputsGiveTheSameBits) {
  for (const std::int64_t key_width : {64, 128}) {
    const Problem p = {.lengths = {300, 77}, .key_width = key_width, .value_width = 2 * key_width};
    const Inputs in = inputs_of(p);
    const Result first = run(p, in, DType::bf16);
    const Result second = run(p, in, DType::bf16);
    EXPECT_TRUE(harness::same_bits(first.o, second.o));
    EXPECT_TRUE(harness::same_bits(first.after, second.after));
  }
}

TEST_F(MetalaAttentionOnGpu, SplitsOfASequenceAgreeWithTheWhole) {
  const Problem whole = {.lengths = {97}, .key_width = 64, .value_width = 128};
  const Inputs in = moved(inputs_of(whole), DType::f32);
  const auto run_rows = [&](std::int64_t begin, std::int64_t end, const Tensor& before,
                            const Tensor& o, const Tensor& after) {
    const auto cut = [&](const Tensor& t) { return t.rows(begin, end); };
    const Inputs part = {cut(in.q), cut(in.u), {}, cut(in.v), cut(in.z), in.aug, {}, before};
    const std::vector<std::int64_t> offsets = {0, end - begin};
    forward(whole.options(), part, mirrored(offsets), o.rows(begin, end), {}, after);
  };
  const Tensor once = Tensor::zeros(whole.value_rows(), DType::f32, gpu_);
  const Tensor after_once = Tensor::zeros(whole.state(), DType::f32, gpu_);
  run_rows(0, 97, in.before, once, after_once);
  const Tensor split = Tensor::zeros(whole.value_rows(), DType::f32, gpu_);
  const Tensor carried = in.before.copy();
  for (const auto& [begin, end] :
       {std::pair<std::int64_t, std::int64_t>{0, 1}, {1, 30}, {30, 31}, {31, 97}}) {
    run_rows(begin, end, carried, split, carried);  // in place
  }
  EXPECT_TRUE(close(split.to({}), once.to({}), 1e-5));
  EXPECT_TRUE(close(carried.to({}), after_once.to({}), 1e-6));
}

}  // namespace
}  // namespace metala::metala_attention
