// Steps in few kernels against the plain model's: the same function, whatever the options.
#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/harness/test_models.h"
#include "metala/model/checkpoint.h"
#include "metala/model/stepper.h"

namespace metala {
namespace {

using namespace harness;

constexpr int steps = 5;

// Widths that the fused step takes.
Config widened(Config c) {
  c.width = 96;
  c.query_width = c.query_width == 14 ? 80 : 48;
  c.glu_width = 160;
  c.vocab_size = 53;
  return c;
}

// Matrices rounded to bf16, in double.
Parameters rounded(const Config& config) {
  const Parameters exact = testing_models::lively_parameters(config, DType::f64);
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, t] : exact.tensors()) {
    tensors.emplace(name, t.rank() == 2 ? t.cast(DType::bf16).cast(DType::f64)
                                        : t.cast(DType::f32).cast(DType::f64));
  }
  return Parameters(std::move(tensors));
}

class FusedStepOnGpu : public GpuTest {
 protected:
  struct Outcome {
    std::vector<Tensor> logits;
    State state;
  };

  static std::vector<std::int32_t> ids_of(int step, std::int64_t batch) {
    return testing_models::random_ids(batch, 23, static_cast<std::uint64_t>(step) + 1);
  }

  // Every sequence reads two tokens at once, then some one by one.
  static Outcome plain(const LanguageModel& model, std::int64_t batch) {
    Arena arena(model.device());
    Outcome out = {{}, prompted(model, arena, batch)};
    std::vector<std::int64_t> one_each;
    for (std::int64_t b = 0; b <= batch; ++b) one_each.push_back(b);
    for (int step = 0; step < steps; ++step) {
      model.advance(arena, {ids_of(step, batch), one_each}, out.state);
      out.logits.push_back(out.state.logits().to({}).copy());
    }
    out.state = out.state.to({});
    return out;
  }

  static Outcome stepped(const LanguageModel& model, std::int64_t batch) {
    Arena arena(model.device());
    Outcome out = {{}, prompted(model, arena, batch)};
    Stepper stepper(model, out.state);
    for (int step = 0; step < steps; ++step) {
      stepper.advance(ids_of(step, batch));
      out.logits.push_back(out.state.logits().to({}).copy());
    }
    out.state = out.state.to({});
    return out;
  }

  // |got - truth| / |truth|, over all elements.
  static double distance(const Tensor& got, const Tensor& truth) {
    const auto g = values(got);
    const auto t = values(truth);
    double difference = 0;
    double size = 0;
    for (std::size_t i = 0; i < t.size(); ++i) {
      difference += (g[i] - t[i]) * (g[i] - t[i]);
      size += t[i] * t[i];
    }
    return std::sqrt(difference / size);
  }

  // Both against the exact model: the fused step must not be further from it than the plain one,
  // but for luck with roundings.
  void expect_agreement(const Config& config, std::int64_t batch) {
    const Parameters exact = rounded(config);
    const LanguageModel there(config, exact.cast(DType::f32).on(gpu_, DType::bf16));
    const Outcome want = plain(LanguageModel(config, exact), batch);
    const Outcome slow = plain(there, batch);
    const Outcome fast = stepped(there, batch);
    const auto expect_close = [](const Tensor& got, const Tensor& twin, const Tensor& truth) {
      ASSERT_EQ(got.shape(), truth.shape());
      const double error = distance(got, truth);
      const double bound = 1e-3 + 3 * distance(twin, truth);
      EXPECT_TRUE(error <= bound) << error << ", bound " << bound;
    };
    for (std::size_t step = 0; step < steps; ++step) {
      SCOPED_TRACE(step);
      expect_close(fast.logits[step], slow.logits[step], want.logits[step]);
    }
    for (std::size_t layer = 0; layer < want.state.layers().size(); ++layer) {
      const auto& [recurrent, conv] = fast.state.layers()[layer];
      const LayerState& twin = slow.state.layers()[layer];
      const LayerState& truth = want.state.layers()[layer];
      expect_close(recurrent, twin.recurrent, truth.recurrent);
      if (truth.conv.defined()) expect_close(conv, twin.conv, truth.conv);
    }
    EXPECT_EQ(fast.state.tokens(), slow.state.tokens());
  }

  static State prompted(const LanguageModel& model, Arena& arena, std::int64_t batch) {
    State state(model.config(), batch, accumulation_type(model.dtype()), model.device());
    std::vector<std::int64_t> offsets;
    for (std::int64_t b = 0; b <= batch; ++b) offsets.push_back(2 * b);
    model.advance(arena, {ids_of(99, 2 * batch), offsets}, state);
    return state;
  }
};

TEST_F(FusedStepOnGpu, IsThePlainModelWithEveryOption) {
  for (const auto& [name, config] : testing_models::all_configs()) {
    SCOPED_TRACE(name);
    expect_agreement(widened(config), 1);
    expect_agreement(widened(config), 5);
  }
}

TEST_F(FusedStepOnGpu, IsThePlainModelForAnyNumberOfSequences) {
  for (const std::int64_t batch : {2, 3, 8, 9, 16, 17, 64, 65, 130}) {
    SCOPED_TRACE(batch);
    expect_agreement(widened(testing_models::small_config()), batch);
  }
}

TEST_F(FusedStepOnGpu, ModelsItDoesNotTakeStepToo) {
  Config exp = widened(testing_models::small_config());
  exp.glu_activation = glu::Activation::exp;
  expect_agreement(exp, 3);
  expect_agreement(testing_models::small_config(), 3);  // widths of 12 and 10
}

TEST_F(FusedStepOnGpu, SequencesMayStandStill) {
  for (const std::int64_t batch : {2, 5, 20, 70, 140}) {
    SCOPED_TRACE(batch);
    const Config config = widened(testing_models::small_config());
    const LanguageModel model(config, rounded(config).cast(DType::f32).on(gpu_, DType::bf16));
    Arena arena(gpu_);
    State all = prompted(model, arena, batch);
    State some = prompted(model, arena, batch);
    Stepper of_all(model, all), of_some(model, some);
    const auto odd = [](std::int64_t b) { return b % 2 == 1; };
    const State before = some.to({}).copy();
    for (int step = 0; step < 4; ++step) {  // enqueued, recorded, replayed
      auto ids = ids_of(step, batch);
      of_all.advance(ids);
      for (std::int64_t b = 0; b < batch; ++b) {
        if (odd(b)) ids[static_cast<std::size_t>(b)] = -1;
      }
      of_some.advance(ids);
    }
    const State moved = all.to({});
    const State got = some.to({});
    for (std::int64_t b = 0; b < batch; ++b) {
      const State& want = odd(b) ? before : moved;
      EXPECT_EQ(got.tokens()[static_cast<std::size_t>(b)],
                want.tokens()[static_cast<std::size_t>(b)]);
      EXPECT_TRUE(same_bits(got.logits().row(b), want.logits().row(b))) << b;
      for (std::size_t layer = 0; layer < got.layers().size(); ++layer) {
        const LayerState &is = got.layers()[layer], &should = want.layers()[layer];
        EXPECT_TRUE(same_bits(is.recurrent.row(b), should.recurrent.row(b))) << b;
        EXPECT_TRUE(same_bits(is.conv.row(b), should.conv.row(b))) << b;
      }
    }
  }
}

TEST_F(FusedStepOnGpu, GivesTheSameBitsEachTime) {
  for (const std::int64_t batch : {1, 12, 20, 80, 140}) {
    const Config config = widened(testing_models::small_config());
    const LanguageModel model(config, rounded(config).cast(DType::f32).on(gpu_, DType::bf16));
    const Outcome once = stepped(model, batch);
    const Outcome again = stepped(model, batch);
    for (std::size_t step = 0; step < steps; ++step) {
      EXPECT_TRUE(same_bits(once.logits[step], again.logits[step])) << batch << " " << step;
    }
  }
}

}  // namespace
}  // namespace metala
