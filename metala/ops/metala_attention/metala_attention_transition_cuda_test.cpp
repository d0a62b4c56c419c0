// What parts of sequences tell each other, on the GPU, against the reference in double.
#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/ops/metala_attention/metala_attention_problem.h"

namespace metala::metala_attention {
namespace {

using harness::close;
using harness::poisoned;

class TransitionOnGpu : public harness::GpuTest {
 protected:
  Inputs moved(const Inputs& in, DType type) const {
    return {there(in.q, type), there(in.u, type), there(in.k, type),     there(in.v, type),
            there(in.z, type), there(in.aug),     there(in.fixed_decay), {}};
  }

  void expect_agreement(const Problem& p, DType type, double bound) {
    SCOPED_TRACE(p.text());
    Inputs in = inputs_of(p);
    in.before = {};
    const auto rounded = [type](Tensor& t) {
      if (t.defined()) t = t.cast(type).cast(DType::f32);
    };
    for (Tensor* t : {&in.q, &in.u, &in.k, &in.v, &in.z}) rounded(*t);
    const Inputs exact = cast(in, DType::f64);
    const Shape decays = {p.batch(), p.heads, p.key_width};
    const auto offsets = p.offsets();
    const auto there_offsets = mirrored(offsets);

    const Tensor added = poisoned(p.state(), DType::f64), decay = poisoned(decays, DType::f64);
    transition(p.options(), exact, offsets, added, decay);
    const Tensor got_added = there(poisoned(p.state(), DType::f32));
    const Tensor got_decay = there(poisoned(decays, DType::f32));
    transition(p.options(), moved(in, type), there_offsets, got_added, got_decay,
               there(poisoned(in.v.shape(), DType::f32), type));
    EXPECT_TRUE(close(got_added.to({}), added, bound));
    EXPECT_TRUE(close(got_decay.to({}), decay, bound));

    // The gradient that reaches the state before, alone.
    Tensor mixed = run_forward(p, exact).mixed.cast(DType::f32);
    Tensor cotangent = cotangents_of(p, DType::f32).o;
    rounded(mixed);
    rounded(cotangent);
    Gradients want, got;
    want.before = Tensor::zeros(p.state(), DType::f64);
    got.before = there(Tensor::zeros(p.state()));
    backward(p.options(), exact, offsets, mixed.cast(DType::f64), cotangent.cast(DType::f64), {},
             want);
    backward(p.options(), moved(in, type), there_offsets, there(mixed, type),
             there(cotangent, type), {}, got);
    EXPECT_TRUE(close(got.before.to({}), want.before, bound));
  }
};

TEST_F(TransitionOnGpu, AgreesWithTheReferenceForEveryGate) {
  for (const auto gates : all_gate_patterns) {
    const Problem p = {.lengths = {300, 0, 70, 1, 64}, .gates = gates};
    expect_agreement(p, DType::f32, 2e-5);
    expect_agreement(p, DType::bf16, 3e-2);
  }
}

TEST_F(TransitionOnGpu, AgreesWithTheReferenceForEverySizeAndOption) {
  for (const auto& [key_width, value_width] :
       {std::pair{32, 32}, {64, 64}, {64, 128}, {128, 128}, {128, 256}, {20, 36}}) {
    const Problem p = {
        .lengths = {1000, 130}, .heads = 2, .key_width = key_width, .value_width = value_width};
    expect_agreement(p, DType::f32, 2e-5);
    expect_agreement(p, DType::bf16, 3e-2);
  }
  for (const auto decay : {Decay::fixed, Decay::none}) {
    expect_agreement({.lengths = {33, 5}, .decay = decay, .tied = false}, DType::f32, 2e-5);
  }
}

}  // namespace
}  // namespace metala::metala_attention
