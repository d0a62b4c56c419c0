#include "metala/model/language_model.h"

#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gradient_check.h"
#include "metala/harness/random_tensor.h"
#include "metala/harness/refusal.h"
#include "metala/harness/test_models.h"

namespace metala {
namespace {

using namespace harness;
using namespace testing_models;

// A ragged batch with an empty sequence and one shorter than the convolution.
const std::vector<std::int64_t> ragged = {0, 9, 9, 11, 18};

State advanced(const LanguageModel& model, const std::vector<std::int32_t>& ids,
               const std::vector<std::int64_t>& offsets) {
  Arena arena;
  State state(model.config(), batch_of(offsets), model.dtype());
  model.advance(arena, {ids, offsets}, state);
  return state;
}

Tensor hidden_of(const LanguageModel& model, const std::vector<std::int32_t>& ids,
                 const std::vector<std::int64_t>& offsets) {
  Arena arena;
  Tape tape(arena, Tape::Mode::compute);
  return model.hidden(tape, {ids, offsets}).value().copy();
}

::testing::AssertionResult same_state(const State& got, const State& want, double bound) {
  for (std::size_t i = 0; i < want.layers().size(); ++i) {
    auto result = close(got.layers()[i].recurrent, want.layers()[i].recurrent, bound);
    if (!result) return result << " (recurrent state of layer " << i << ")";
    if (!want.layers()[i].conv.defined()) continue;
    result = close(got.layers()[i].conv, want.layers()[i].conv, bound);
    if (!result) return result << " (convolution state of layer " << i << ")";
  }
  return close(got.logits(), want.logits(), bound);
}

// Loss with random cotangents on every final state, as a function of parameters, in double.
struct Scenario {
  Config config;
  Parameters parameters;
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> labels;
  std::vector<LayerState> before, cotangents;

  Scenario(const Config& c, DType type) : config(c), parameters(lively_parameters(c, type)) {
    ids = random_ids(ragged.back(), c.vocab_size, 3);
    labels = random_ids(ragged.back(), c.vocab_size, 4);
    labels[2] = labels[10] = -100;
    const State shapes(c, batch_of(ragged), DType::f64);
    for (std::size_t i = 0; i < shapes.layers().size(); ++i) {
      const auto draw = [&](const Tensor& like, std::uint64_t seed) {
        return like.defined() ? random_normal(like.shape(), type, seed + i) : Tensor();
      };
      before.push_back(
          {draw(shapes.layers()[i].recurrent, 100), draw(shapes.layers()[i].conv, 200)});
      cotangents.push_back(
          {draw(shapes.layers()[i].recurrent, 300), draw(shapes.layers()[i].conv, 400)});
    }
  }

  // Runs forward and, when the parameters have gradients, backward.
  double run(std::vector<LayerState>* state_gradients, bool recompute = false) const {
    Arena arena;
    const LanguageModel model(config, parameters);
    const bool backward = !parameters.gradients().empty();
    Tape tape(arena, backward ? Tape::Mode::record : Tape::Mode::compute);
    CarriedState carried(before.size());
    std::vector<LayerState> gradients;
    for (std::size_t i = 0; i < before.size(); ++i) {
      LayerState gradient;
      const auto carry = [&](const Tensor& from, Tensor& into, functions::Carried& c) {
        if (!from.defined()) return;
        into = Tensor::zeros(from.shape(), from.dtype());
        c.before = backward ? Variable::leaf(from, into) : Variable::constant(from);
        c.after = tape.intermediate(from.shape(), from.dtype());
      };
      carry(before[i].recurrent, gradient.recurrent, carried[i].recurrent);
      carry(before[i].conv, gradient.conv, carried[i].conv);
      gradients.push_back(gradient);
    }
    TrainingOptions training;
    training.recompute_blocks = recompute;
    const Variable hidden = model.hidden(tape, {ids, ragged}, carried, &training);
    const Tensor sums = cross_entropy::zero_sums({});
    functions::cross_entropy(tape, hidden, model.head(), labels, 0.25, sums);
    double loss = cross_entropy::read(sums).loss * 0.25;
    for (std::size_t i = 0; i < before.size(); ++i) {
      const auto add = [&](const functions::Carried& c, const Tensor& cotangent) {
        if (!cotangent.defined()) return;
        loss += dot(c.after.value(), cotangent);
        if (backward) c.after.gradient().copy_from(cotangent);
      };
      add(carried[i].recurrent, cotangents[i].recurrent);
      add(carried[i].conv, cotangents[i].conv);
    }
    if (backward) tape.backward();
    if (state_gradients != nullptr) *state_gradients = gradients;
    return loss;
  }
};

TEST(LanguageModel, GradientsOfTheWholeModelMatchCentralDifferencesForEveryOption) {
  for (const auto& [name, config] : all_configs()) {
    Scenario with_gradients(config, DType::f64);
    with_gradients.parameters.allocate_gradients();
    std::vector<LayerState> state_gradients;
    with_gradients.run(&state_gradients);

    Scenario plain(config, DType::f64);
    const auto loss = [&] { return plain.run(nullptr); };
    for (const auto& [tensor, gradient] : with_gradients.parameters.gradients()) {
      EXPECT_TRUE(gradient_matches(loss, plain.parameters.tensors().at(tensor), gradient, 2e-6, 3))
          << name << ": " << tensor;
    }
    for (std::size_t i = 0; i < state_gradients.size(); ++i) {
      EXPECT_TRUE(
          gradient_matches(loss, plain.before[i].recurrent, state_gradients[i].recurrent, 2e-6, 3))
          << name << ": state of layer " << i;
      if (!plain.before[i].conv.defined()) continue;
      EXPECT_TRUE(gradient_matches(loss, plain.before[i].conv, state_gradients[i].conv, 2e-6, 3))
          << name << ": convolution state of layer " << i;
    }
  }
}

TEST(LanguageModel, GradientsInFloatAgreeWithDoubleForEveryOption) {
  for (const auto& [name, config] : all_configs()) {
    Scenario exact(config, DType::f64);
    Scenario fast(config, DType::f32);
    exact.parameters.allocate_gradients();
    fast.parameters.allocate_gradients();
    const double want = exact.run(nullptr);
    EXPECT_NEAR(fast.run(nullptr), want, 1e-4 * std::abs(want)) << name;
    for (const auto& [tensor, gradient] : exact.parameters.gradients()) {
      EXPECT_TRUE(close(fast.parameters.gradients().at(tensor), gradient, 1e-4))
          << name << ": " << tensor;
    }
  }
}

TEST(LanguageModel, RecomputingBlocksChangesNoGradient) {
  Scenario kept(small_config(), DType::f32);
  Scenario recomputed(small_config(), DType::f32);
  kept.parameters.allocate_gradients();
  recomputed.parameters.allocate_gradients();
  EXPECT_EQ(kept.run(nullptr), recomputed.run(nullptr, true));
  for (const auto& [tensor, gradient] : kept.parameters.gradients()) {
    EXPECT_TRUE(close(recomputed.parameters.gradients().at(tensor), gradient, 1e-6)) << tensor;
  }
}

TEST(LanguageModel, SplittingAPromptAnywhereAndCarryingTheStateChangesNothing) {
  for (const auto& [name, config] : all_configs()) {
    const LanguageModel model(config, lively_parameters(config, DType::f32));
    const auto ids = random_ids(70, config.vocab_size, 5);
    const State whole = advanced(model, ids, {0, 70});
    for (const std::int64_t cut : {1, 2, 3, 16, 33, 69}) {
      Arena arena;
      State state(config, 1);
      const std::vector<std::int32_t> left(ids.begin(), ids.begin() + cut);
      const std::vector<std::int32_t> right(ids.begin() + cut, ids.end());
      const std::vector<std::int64_t> left_end = {0, cut};
      const std::vector<std::int64_t> right_end = {0, 70 - cut};
      model.advance(arena, {left, left_end}, state);
      model.advance(arena, {right, right_end}, state);
      EXPECT_TRUE(same_state(state, whole, 1e-4)) << name << ", cut at " << cut;
      EXPECT_EQ(state.tokens()[0], 70);
    }
  }
}

// Sequences that end in different passes, or never begin.
TEST(LanguageModel, PromptsOfSeveralPassesAreReadAsInOne) {
  const Config config = small_config();
  const LanguageModel model(config, lively_parameters(config, DType::f32));
  const std::vector<std::int64_t> offsets = {0, 700, 700, 703, 2003};
  const auto ids = random_ids(offsets.back(), config.vocab_size, 9);
  const State state = advanced(model, ids, offsets);
  const Tensor hidden = hidden_of(model, ids, offsets);
  Arena arena;
  const Tensor logits = model.logits(arena, hidden);
  for (const std::int64_t b : {0, 2, 3}) {
    const std::int64_t last = offsets[static_cast<std::size_t>(b) + 1] - 1;
    EXPECT_TRUE(close(state.logits().rows(b, b + 1), logits.rows(last, last + 1), 1e-4)) << b;
  }
  EXPECT_TRUE(close(state.logits().rows(1, 2), Tensor::zeros({1, config.vocab_size}), 0));
  EXPECT_EQ(state.tokens(), (std::vector<std::int64_t>{700, 0, 3, 1300}));
}

TEST(LanguageModel, SequencesOfABatchDoNotMeet) {
  const Config config = small_config();
  const LanguageModel model(config, lively_parameters(config, DType::f32));
  const auto ids = random_ids(ragged.back(), config.vocab_size, 6);
  const State together = advanced(model, ids, ragged);
  for (std::size_t b = 0; b + 1 < ragged.size(); ++b) {
    const std::vector<std::int32_t> own(ids.begin() + ragged[b], ids.begin() + ragged[b + 1]);
    if (own.empty()) continue;
    const State alone = advanced(model, own, {0, static_cast<std::int64_t>(own.size())});
    EXPECT_TRUE(same_state(together.select({static_cast<std::int64_t>(b)}), alone, 1e-4)) << b;
  }
}

TEST(LanguageModel, LaterTokensNeverChangeEarlierOutputs) {
  const Config config = small_config();
  const LanguageModel model(config, lively_parameters(config, DType::f32));
  auto ids = random_ids(40, config.vocab_size, 7);
  const Tensor before = hidden_of(model, ids, {0, 40});
  ids[30] = (ids[30] + 1) % 23;
  const Tensor after = hidden_of(model, ids, {0, 40});
  EXPECT_TRUE(close(after.rows(0, 30), before.rows(0, 30), 1e-6));
  EXPECT_FALSE(close(after.rows(30, 40), before.rows(30, 40), 1e-3));
}

TEST(LanguageModel, ABidirectionalModelSeesLaterTokensAndHasNoState) {
  Config config = small_config();
  config.bidirectional = true;
  const LanguageModel model(config, lively_parameters(config, DType::f32));
  auto ids = random_ids(40, config.vocab_size, 7);
  const Tensor before = hidden_of(model, ids, {0, 40});
  ids[30] = (ids[30] + 1) % 23;
  EXPECT_FALSE(close(hidden_of(model, ids, {0, 40}).rows(0, 30), before.rows(0, 30), 1e-3));
  EXPECT_THROW(State(config, 1), Error);
}

TEST(LanguageModel, DropoutIsOffOutsideTrainingAndDrawsAnewAtEachStep) {
  Config config = small_config();
  config.hidden_dropout = 0.5;
  config.embedding_dropout = 0.5;
  const LanguageModel noisy(config, lively_parameters(config, DType::f32));
  const LanguageModel plain(small_config(), lively_parameters(small_config(), DType::f32));
  const auto ids = random_ids(8, config.vocab_size, 8);
  const std::vector<std::int64_t> offsets = {0, 8};
  EXPECT_TRUE(same_bits(hidden_of(noisy, ids, offsets), hidden_of(plain, ids, offsets)));

  const auto trained = [&](std::uint64_t step) {
    Arena arena;
    Tape tape(arena, Tape::Mode::record);
    TrainingOptions training;
    training.step = step;
    return noisy.hidden(tape, {ids, offsets}, {}, &training).value().copy();
  };
  EXPECT_TRUE(same_bits(trained(1), trained(1)));
  EXPECT_FALSE(close(trained(1), trained(2), 1e-3));
}

TEST(LanguageModel, RefusesIdsOutsideTheVocabulary) {
  const Config config = small_config();
  const LanguageModel model(config, lively_parameters(config, DType::f32));
  EXPECT_EQ(harness::refusal_of([&] {
              advanced(model, {1, 2, 23}, {0, 3});
            }),
            "model: id 23 at position 2; the vocabulary has 23 entries");
}

}  // namespace
}  // namespace metala
