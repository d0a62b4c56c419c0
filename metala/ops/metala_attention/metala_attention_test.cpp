#include "metala/ops/metala_attention/metala_attention.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <cmath>

#include "metala/base/threads.h"
#include "metala/harness/compare.h"
#include "metala/ops/metala_attention/metala_attention_cpu.h"
#include "metala/ops/metala_attention/metala_attention_problem.h"

namespace metala::metala_attention {
namespace {

using namespace harness;
using cpu::Form;

// Bounds of the f32 forms against the reference in double, relative to the largest value. The step
// form rounds a long-lived state once for every token.
constexpr double mixed_bound = 1.5e-6;
constexpr double state_bound = 1e-6;
double state_bound_for(std::int64_t length) {
  return state_bound * (1 + std::sqrt(static_cast<double>(length)) / 16);
}

Result run(const Problem& p, const Inputs& in, Form form) {
  const Result r = blank_result(p, DType::f32);
  cpu::forward(p.options(), in, p.offsets(), r.o, r.mixed, r.after, form);
  return r;
}

std::vector<Form> forms_for(const Problem& p) {
  if (p.bidirectional) return {Form::chunk};
  return {Form::chunk, Form::step};
}

// LayerNorm and gate of given mixed values, in double. Deviations of the mixed values can be far
// smaller than the values, so that their rounding to f32 shows in o: o is held to what follows from
// the rounded ones.
Tensor normalised(const Problem& p, const Tensor& mixed, const Tensor& z) {
  const Tensor c = mixed.cast(DType::f64);
  const Tensor o = c.copy();
  const auto width = p.value_width;
  for (std::int64_t row = 0; row < c.count() / width; ++row) {
    const double* x = c.data<double>() + row * width;
    double mean = 0;
    double variance = 0;
    for (std::int64_t j = 0; j < width; ++j) mean += x[j] / static_cast<double>(width);
    for (std::int64_t j = 0; j < width; ++j) {
      variance += (x[j] - mean) * (x[j] - mean) / static_cast<double>(width);
    }
    for (std::int64_t j = 0; j < width; ++j) {
      o.data<double>()[row * width + j] = (x[j] - mean) / std::sqrt(variance + 1e-5);
    }
  }
  for (std::int64_t i = 0; i < o.count() && z.defined(); ++i) {
    const double gate = values(z)[static_cast<std::size_t>(i)];
    o.data<double>()[i] *= gate / (1 + std::exp(-gate));
  }
  return o;
}

void expect_agreement(const Problem& p) {
  const Inputs in = inputs_of(p);
  const Result want = run_forward(p, cast(in, DType::f64));
  for (const Form form : forms_for(p)) {
    SCOPED_TRACE(p.text() + (form == Form::step ? ", by step" : ", by chunk"));
    const Result got = run(p, in, form);
    EXPECT_TRUE(close(got.mixed, want.mixed, mixed_bound));
    if (p.bidirectional) continue;
    EXPECT_TRUE(close(got.after, want.after, state_bound_for(p.tokens())));
  }
}

TEST(MetalaAttention, FastFormsAgreeWithTheReferenceForEveryGateAndLength) {
  for (const auto gates : all_gate_patterns) {
    for (const std::int64_t length : {1, 15, 16, 17, 31, 33, 63, 100}) {
      expect_agreement({.lengths = {length},
                        .heads = 1,
                        .key_width = 17,
                        .value_width = 33,
                        .gates = gates,
                        .seed = static_cast<std::uint64_t>(length)});
    }
    expect_agreement(
        {.lengths = {1000}, .heads = 1, .key_width = 16, .value_width = 16, .gates = gates});
  }
}

TEST(MetalaAttention, FastFormsAgreeWithTheReferenceForEverySize) {
  const std::pair<std::int64_t, std::int64_t> sizes[] = {
      {1, 1},   {3, 5},     {16, 16},   {32, 32}, {64, 64}, {64, 128},
      {17, 33}, {128, 256}, {256, 256}, {256, 1}, {1, 256}};
  for (const auto& [key_width, value_width] : sizes) {
    expect_agreement(
        {.lengths = {33}, .heads = 1, .key_width = key_width, .value_width = value_width});
  }
}

TEST(MetalaAttention, FastFormsAgreeWithTheReferenceForEveryOption) {
  Problem p = {.lengths = {33, 0, 5, 16}, .key_width = 5, .value_width = 9};
  for (const auto decay : {Decay::dynamic, Decay::fixed, Decay::none}) {
    for (int bits = 0; bits < 32; ++bits) {
      p.decay = decay;
      p.tied = (bits & 1) != 0 && decay != Decay::none;
      p.augmented = (bits & 2) != 0;
      p.gated = (bits & 4) != 0;
      p.bidirectional = (bits & 8) != 0;
      p.carried = (bits & 16) != 0;
      p.temperature = p.carried ? 16 : 3;
      expect_agreement(p);
    }
  }
}

TEST(MetalaAttention, OutputIsTheGatedNormOfTheMixedValue) {
  for (const bool gated : {true, false}) {
    for (const auto gates : {GatePattern::normal, GatePattern::remembering, GatePattern::all_cut}) {
      const Problem p = {
          .lengths = {20, 3}, .key_width = 17, .value_width = 33, .gated = gated, .gates = gates};
      const Inputs in = inputs_of(p);
      for (const Form form : forms_for(p)) {
        const Result r = run(p, in, form);
        EXPECT_TRUE(close(r.o, normalised(p, r.mixed, in.z), 2e-6)) << p.text();
      }
      const Result r = run_forward(p, cast(in, DType::f64));
      EXPECT_TRUE(close(r.o, normalised(p, r.mixed, in.z), 1e-12)) << p.text();
    }
  }
}

TEST(MetalaAttention, OutputIsExactWhereTheStateHoldsLittle) {
  const Problem p = holding_little(17, 33);
  const Inputs in = inputs_of(p);
  const Result want = run_forward(p, cast(in, DType::f64));
  for (const Form form : forms_for(p)) EXPECT_TRUE(close(run(p, in, form).o, want.o, 2e-6));
}

RC_GTEST_PROP(MetalaAttention, SplittingASequenceAnywhereAndCarryingTheStateChangesNothing, ()) {
  const auto length = *rc::gen::inRange<std::int64_t>(1, 70);
  const auto cut = *rc::gen::inRange<std::int64_t>(0, length + 1);
  Problem p = {.lengths = {length}, .heads = 2};
  p.key_width = *rc::gen::inRange<std::int64_t>(1, 20);
  p.value_width = *rc::gen::inRange<std::int64_t>(1, 20);
  p.gates =
      *rc::gen::elementOf(std::vector(std::begin(all_gate_patterns), std::end(all_gate_patterns)));
  p.tied = *rc::gen::arbitrary<bool>();
  p.seed = *rc::gen::inRange<std::uint64_t>(0, 1000);
  const Form first_form = *rc::gen::element(Form::chunk, Form::step);
  const Form second_form = *rc::gen::element(Form::chunk, Form::step);

  const Inputs in = inputs_of(p);
  const Result whole = run(p, in, Form::chunk);
  const auto part = [&](std::int64_t from, std::int64_t to, const Tensor& state, Form form) {
    Problem piece = p;
    piece.lengths = {to - from};
    const Inputs rows = {in.q.rows(from, to),
                         in.u.rows(from, to),
                         p.tied ? in.k : in.k.rows(from, to),
                         in.v.rows(from, to),
                         in.z.rows(from, to),
                         in.aug,
                         {},
                         state};
    return run(piece, rows, form);
  };
  const Result left = part(0, cut, in.before, first_form);
  const Result right = part(cut, length, left.after, second_form);
  RC_ASSERT(close(right.after, whole.after, 2 * state_bound));
  const Tensor joined = Tensor::uninitialized(whole.mixed.shape());
  joined.rows(0, cut).copy_from(left.mixed);
  joined.rows(cut, length).copy_from(right.mixed);
  RC_ASSERT(close(joined, whole.mixed, 2 * mixed_bound));
}

TEST(MetalaAttention, ADecayOfOneLeavesTheStateAloneToTheBit) {
  for (const std::int64_t length : {1, 7, 40}) {
    Problem p = {.lengths = {length}, .gates = GatePattern::all_open};
    Inputs in = inputs_of(p);
    for (const Form form : forms_for(p)) EXPECT_TRUE(same_bits(run(p, in, form).after, in.before));
    p.tied = false;
    in = inputs_of(p);
    in.k = Tensor::zeros(in.k.shape());
    for (const Form form : forms_for(p)) EXPECT_TRUE(same_bits(run(p, in, form).after, in.before));
  }
}

TEST(MetalaAttention, ADecayOfZeroForgetsThePastToTheBit) {
  for (const bool tied : {true, false}) {
    for (const std::int64_t length : {1, 7, 40}) {
      const Problem p = {.lengths = {length}, .tied = tied, .gates = GatePattern::all_cut};
      Inputs in = inputs_of(p);
      Inputs burdened = in;
      in.before = Tensor::zeros(p.state());
      burdened.before = filled(p.state(), DType::f32, 1e30);
      for (const Form form : forms_for(p)) {
        const Result fresh = run(p, in, form);
        const Result r = run(p, burdened, form);
        EXPECT_TRUE(same_bits(r.after, fresh.after)) << p.text();
        EXPECT_TRUE(same_bits(r.o, fresh.o)) << p.text();
      }
    }
  }
}

TEST(MetalaAttention, TheStateIsLinearInTheValues) {
  const Problem p = {.lengths = {37}, .key_width = 9, .value_width = 5, .carried = false};
  const Inputs a = inputs_of(p);
  Inputs b = a;
  b.v = random_normal(a.v.shape(), DType::f32, 77);
  Inputs sum = a;
  sum.v = a.v.copy();
  for (std::int64_t i = 0; i < sum.v.count(); ++i) {
    sum.v.data<float>()[i] = 2 * a.v.data<float>()[i] - 3 * b.v.data<float>()[i];
  }
  for (const Form form : forms_for(p)) {
    const Tensor of_a = run(p, a, form).after;
    const Tensor of_b = run(p, b, form).after;
    const Tensor want = of_a.copy();
    for (std::int64_t i = 0; i < want.count(); ++i) {
      want.data<float>()[i] = 2 * of_a.data<float>()[i] - 3 * of_b.data<float>()[i];
    }
    EXPECT_TRUE(close(run(p, sum, form).after, want, 2e-6));
  }
}

TEST(MetalaAttention, LaterTokensNeverChangeEarlierOutputs) {
  const Problem p = {.lengths = {40}, .key_width = 9, .value_width = 17};
  const Inputs in = inputs_of(p);
  for (const Form form : forms_for(p)) {
    const Result r = run(p, in, form);
    for (const std::int64_t from : {1, 15, 16, 21, 39}) {
      Inputs changed = cast(in, DType::f32);
      for (const Tensor& t : {changed.q, changed.u, changed.v, changed.z}) {
        t.rows(from, 40).copy_from(random_normal(t.rows(from, 40).shape(), DType::f32, 99));
      }
      const Result other = run(p, changed, form);
      EXPECT_TRUE(same_bits(other.o.rows(0, from), r.o.rows(0, from))) << from;
      EXPECT_FALSE(same_bits(other.o, r.o)) << from;
    }
  }
}

TEST(MetalaAttention, SequencesOfABatchDoNotMeet) {
  const Problem p = {.lengths = {5, 0, 33, 16, 1}, .key_width = 5, .value_width = 7};
  const Inputs in = inputs_of(p);
  const Result together = run_forward(p, in);
  const auto offsets = p.offsets();
  for (std::size_t b = 0; b < p.lengths.size(); ++b) {
    Problem one = p;
    one.lengths = {p.lengths[b]};
    const auto rows = [&](const Tensor& t) { return t.rows(offsets[b], offsets[b + 1]); };
    const auto at = static_cast<std::int64_t>(b);
    const Inputs own = {rows(in.q), rows(in.u), {}, rows(in.v),
                        rows(in.z), in.aug,     {}, in.before.rows(at, at + 1)};
    const Result alone = run_forward(one, own);
    EXPECT_TRUE(same_bits(rows(together.o), alone.o)) << b;
    EXPECT_TRUE(same_bits(together.after.rows(at, at + 1), alone.after)) << b;
  }
}

TEST(MetalaAttention, SameBitsOnEveryRunAndForAnyNumberOfThreads) {
  const Problem p = {.lengths = {50, 3, 0, 20}, .heads = 3, .key_width = 6, .value_width = 10};
  const Inputs in = inputs_of(p);
  const Result first = run_forward(p, in);
  const int threads = thread_count();
  for (const int count : {1, 2, 3}) {
    set_thread_count(count);
    const Result again = run_forward(p, in);
    EXPECT_TRUE(same_bits(again.o, first.o)) << count;
    EXPECT_TRUE(same_bits(again.mixed, first.mixed)) << count;
    EXPECT_TRUE(same_bits(again.after, first.after)) << count;
  }
  set_thread_count(threads);
}

// True when the elements between the rows of a strided() view are still NaN.
bool gaps_untouched(const Tensor& view) {
  for (std::int64_t row = 0; row + 1 < view.size(0); ++row) {
    const float* end = view.data<float>() + row * view.stride(0) + view.size(1);
    for (std::int64_t i = 0; i < view.stride(0) - view.size(1); ++i) {
      if (!std::isnan(end[i])) return false;
    }
  }
  return true;
}

TEST(MetalaAttention, StridedRowsGiveTheSameAndNothingBetweenThemIsWritten) {
  for (const bool bidirectional : {false, true}) {
    const Problem p = {.lengths = {21, 4},
                       .key_width = 5,
                       .value_width = 7,
                       .tied = false,
                       .bidirectional = bidirectional};
    const Inputs in = inputs_of(p);
    Inputs wide = in;
    for (Tensor* t : {&wide.q, &wide.u, &wide.k, &wide.v, &wide.z}) *t = strided(*t);
    for (const Form form : forms_for(p)) {
      const Result want = run(p, in, form);
      const Tensor o = strided(poisoned(p.value_rows(), DType::f32));
      const Tensor mixed = strided(poisoned(p.value_rows(), DType::f32));
      // The state as a slice of one with more heads and more columns.
      Tensor after;
      if (!bidirectional) {
        after = poisoned({2, p.heads + 1, p.key_width, p.value_width + 2}, DType::f32)
                    .slice(1, 1, p.heads + 1)
                    .slice(3, 1, p.value_width + 1);
      }
      cpu::forward(p.options(), wide, p.offsets(), o, mixed, after, form);
      EXPECT_TRUE(same_bits(o, want.o));
      EXPECT_TRUE(same_bits(mixed, want.mixed));
      EXPECT_TRUE(gaps_untouched(o));
      EXPECT_TRUE(gaps_untouched(mixed));
      if (bidirectional) continue;
      EXPECT_TRUE(same_bits(after, want.after));
      EXPECT_TRUE(std::isnan(after.data<float>()[-1]));
      EXPECT_TRUE(std::isnan(after.data<float>()[p.value_width]));
    }
  }
}

TEST(MetalaAttention, OptionalOutputsMayBeAbsentAndTheStateMayBeUpdatedInPlace) {
  const Problem p = {.lengths = {19, 0, 2}, .key_width = 5, .value_width = 7};
  const Inputs in = inputs_of(p);
  for (const Form form : forms_for(p)) {
    const Result want = run(p, in, form);
    const Tensor o = poisoned(p.value_rows(), DType::f32);
    cpu::forward(p.options(), in, p.offsets(), o, {}, {}, form);
    EXPECT_TRUE(same_bits(o, want.o));
    Inputs in_place = in;
    in_place.before = in.before.copy();
    cpu::forward(p.options(), in_place, p.offsets(), o, {}, in_place.before, form);
    EXPECT_TRUE(same_bits(o, want.o));
    EXPECT_TRUE(same_bits(in_place.before, want.after));
  }
}

TEST(MetalaAttention, ASequenceOfNoTokensCopiesItsState) {
  for (const auto type : {DType::f32, DType::f64}) {
    Problem p = {.lengths = {0, 0}};
    EXPECT_TRUE(same_bits(run_forward(p, inputs_of(p, type)).after, inputs_of(p, type).before));
    p.carried = false;
    EXPECT_TRUE(
        same_bits(run_forward(p, inputs_of(p, type)).after, Tensor::zeros(p.state(), type)));
  }
}

TEST(MetalaAttention, BidirectionalRunsDoNotKnowLeftFromRight) {
  const Problem p = {.lengths = {37}, .key_width = 9, .value_width = 5, .bidirectional = true};
  const auto mirrored = [](const Tensor& t) {
    const Tensor m = Tensor::uninitialized(t.shape());
    for (std::int64_t i = 0; i < t.size(0); ++i) m.row(i).copy_from(t.row(t.size(0) - 1 - i));
    return m;
  };
  const Inputs in = inputs_of(p);
  Inputs mirror = in;
  for (Tensor* t : {&mirror.q, &mirror.u, &mirror.v, &mirror.z}) *t = mirrored(*t);
  const Result r = run_forward(p, in);
  EXPECT_TRUE(close(mirrored(run_forward(p, mirror).mixed), r.mixed, mixed_bound));
}

// A carried state must survive a document of any length: the tied key is written so that what a
// token takes and what it leaves add up to one.
TEST(MetalaAttention, StatesDoNotDriftOverTwoHundredThousandTokens) {
  for (const double logit : {6.0, 10.0}) {
    Problem p = {.lengths = {200'000}, .heads = 1, .key_width = 2, .value_width = 3};
    p.augmented = p.gated = false;
    Inputs in = inputs_of(p);
    in.u = filled(p.key_rows(), DType::f32, logit);
    in.v = random_normal(p.value_rows(), DType::f32, 5, 0.1, 1.0);
    const Result want = run_forward(p, cast(in, DType::f64));
    for (const Form form : forms_for(p)) {
      EXPECT_TRUE(close(run(p, in, form).after, want.after, 1e-5)) << logit;
    }
  }
}

TEST(MetalaAttention, RefusesWhatDoesNotFitByNamingTheArgument) {
  const Problem p = {.lengths = {4}};
  const Inputs good = inputs_of(p);
  const Tensor o = Tensor::zeros(p.value_rows());
  const auto message = [&](auto change) -> std::string {
    Options options = p.options();
    Inputs in = good;
    change(options, in);
    try {
      forward(options, in, p.offsets(), o, {}, {});
    } catch (const Error& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message([](Options&, Inputs& in) {
              in.u = Tensor::zeros({4, 7});
            }),
            "metala_attention: u is f32 [4, 7]; wanted f32 [4, 8]");
  EXPECT_EQ(message([](Options&, Inputs& in) { in.v = in.v.cast(DType::f64); }),
            "metala_attention: v is f64 [4, 12]; wanted f32 [4, 12]");
  EXPECT_EQ(message([](Options&, Inputs& in) {
              in.before = Tensor::zeros({1, 2, 6, 4});
            }),
            "metala_attention: before is f32 [1, 2, 6, 4]; wanted f32 [1, 2, 4, 6]");
  EXPECT_EQ(message([](Options&, Inputs& in) { in.fixed_decay = Tensor::zeros({8}); }),
            "metala_attention: both u and fixed_decay are given; pass one of them");
  EXPECT_EQ(message([](Options&, Inputs& in) { in.u = {}; }),
            "metala_attention: k is absent, and without decay (no u, no fixed_decay) there is no "
            "gate to tie it to; pass k");
  EXPECT_EQ(message([](Options& options, Inputs&) { options.bidirectional = true; }),
            "metala_attention: before is given, but a bidirectional pass carries no state");
  EXPECT_EQ(message([](Options& options, Inputs&) { options.heads = 3; }),
            "metala_attention: q has 8 columns for 3 heads; wanted a multiple of the heads, from 1 "
            "to 256 for each");
  EXPECT_EQ(message([](Options& options, Inputs&) { options.temperature = 0; }),
            "metala_attention: temperature is 0; wanted a positive number");
  EXPECT_EQ(message([](Options&, Inputs& in) { in.q = in.q.cast(DType::bf16); }),
            "metala_attention: q is bf16; wanted f32 or f64, or bf16 or f16 on a GPU");

  Gradients to;
  to.k = Tensor::zeros(p.key_rows());
  try {
    backward(p.options(), good, p.offsets(), o, o, {}, to);
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "metala_attention: gradient of k is asked for, but there is no k");
  }
}

// after = diag(decay) before + added, whatever the gates.
void expect_transition(const Problem& p, DType type, double bound) {
  SCOPED_TRACE(p.text());
  const Inputs in = inputs_of(p, type);
  Inputs from_zero = in;
  from_zero.before = {};
  const Tensor added = poisoned(p.state(), type);
  const Tensor decay = poisoned({p.batch(), p.heads, p.key_width}, type);
  transition(p.options(), from_zero, p.offsets(), added, decay);
  const Tensor want = run_forward(p, in).after.cast(DType::f64);
  const Tensor got = added.cast(DType::f64), kept = decay.cast(DType::f64);
  const Tensor before = in.before.cast(DType::f64);
  for (std::int64_t i = 0; i < got.count(); ++i) {
    got.data<double>()[i] += kept.data<double>()[i / p.value_width] * before.data<double>()[i];
  }
  EXPECT_TRUE(close(got, want, bound));
}

TEST(MetalaAttention, AStatePassesThroughASequenceAsItsTransitionSays) {
  for (const auto gates : all_gate_patterns) {
    for (const bool tied : {true, false}) {
      const Problem p = {.lengths = {7, 0, 40, 100}, .tied = tied, .gates = gates};
      expect_transition(p, DType::f64, 1e-12);
      expect_transition(p, DType::f32, 2e-6);
    }
  }
  for (const auto decay : {Decay::fixed, Decay::none}) {
    const Problem p = {.lengths = {33, 5}, .decay = decay, .tied = false};
    expect_transition(p, DType::f64, 1e-12);
    expect_transition(p, DType::f32, 2e-6);
  }
}

}  // namespace
}  // namespace metala::metala_attention
