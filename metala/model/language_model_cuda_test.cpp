#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/harness/test_models.h"
#include "metala/model/stepper.h"

namespace metala {
namespace {

using namespace harness;

class LanguageModelOnGpu : public GpuTest {
 protected:
  // The logits after each of two readings of a ragged batch that carry the state, and the state.
  struct Outcome {
    Tensor first, second, recurrent;
  };
  static Outcome read(const LanguageModel& model) {
    const std::vector<std::int32_t> ids = {1, 5, 9, 2, 22, 3, 3, 17, 0, 4, 11};
    const std::vector<std::int64_t> offsets = {0, 4, 5, 11};
    const std::vector<std::int32_t> more = {7, 8, 9};
    const std::vector<std::int64_t> one_each = {0, 1, 2, 3};
    Arena arena(model.device());
    State state(model.config(), 3, accumulation_type(model.dtype()), model.device());
    model.advance(arena, {ids, offsets}, state);
    const Tensor first = state.logits().to({}).copy();
    model.advance(arena, {more, one_each}, state);
    return {first, state.logits().to({}), state.layers().back().recurrent.to({})};
  }
};

TEST_F(LanguageModelOnGpu, ReadsAsOnTheCpuWithEveryOption) {
  for (const auto& [name, config] : testing_models::all_configs()) {
    SCOPED_TRACE(name);
    const Parameters exact = testing_models::lively_parameters(config, DType::f64);
    const Outcome want = read(LanguageModel(config, exact));
    const Parameters floats = exact.cast(DType::f32);
    const Outcome got = read(LanguageModel(config, floats.on(gpu_, DType::f32)));
    // What float32 itself costs these lively models differs from one to the other.
    const Outcome here = read(LanguageModel(config, floats));
    const auto expect_close = [](const Tensor& gpu, const Tensor& cpu, const Tensor& truth) {
      EXPECT_TRUE(close(gpu, truth, 1e-5 + 8 * relative_difference(cpu, truth)));
    };
    expect_close(got.first, here.first, want.first);
    expect_close(got.second, here.second, want.second);
    expect_close(got.recurrent, here.recurrent, want.recurrent);
  }
}

TEST_F(LanguageModelOnGpu, PromptsOfSeveralPassesAreReadAsOnTheCpu) {
  const Config config = testing_models::small_config();
  const Parameters floats = testing_models::lively_parameters(config, DType::f32);
  const std::vector<std::int64_t> offsets = {0, 3000, 3000, 3003, 12003};
  const auto ids = testing_models::random_ids(offsets.back(), config.vocab_size, 9);
  const auto logits = [&](const LanguageModel& model) {
    Arena arena(model.device());
    State state(config, batch_of(offsets), DType::f32, model.device());
    model.advance(arena, {ids, offsets}, state);
    return state.logits().to({}).copy();
  };
  EXPECT_TRUE(close(logits(LanguageModel(config, floats.on(gpu_, DType::f32))),
                    logits(LanguageModel(config, floats)), 1e-4));
}

TEST_F(LanguageModelOnGpu, Bf16StaysNearTheExactModel) {
  const Config config = testing_models::small_config();
  const Parameters exact = testing_models::lively_parameters(config, DType::f64);
  const Outcome want = read(LanguageModel(config, exact));
  const Outcome got = read(LanguageModel(config, exact.cast(DType::f32).on(gpu_, DType::bf16)));
  EXPECT_TRUE(close(got.first, want.first, 0.1));
  EXPECT_TRUE(close(got.second, want.second, 0.1));
}

// The gradients of a loss over a ragged batch, by name, on the CPU.
std::map<std::string, Tensor> gradients_of(const Config& config, Parameters parameters,
                                           bool recompute) {
  const std::vector<std::int32_t> ids = {1, 5, 9, 2, 22, 3, 3, 17, 0, 4, 11};
  const std::vector<std::int32_t> labels = {5, 9, 2, -100, 3, 3, 17, 0, 4, 11, 6};
  const std::vector<std::int64_t> offsets = {0, 4, 5, 11};
  parameters.allocate_gradients();
  const LanguageModel model(config, parameters);
  Arena arena(model.device());
  Tape tape(arena, Tape::Mode::record);
  TrainingOptions training;
  training.recompute_blocks = recompute;
  const Variable hidden = model.hidden(tape, {ids, offsets}, {}, &training);
  functions::cross_entropy(tape, hidden, model.head(), labels, 0.1,
                           cross_entropy::zero_sums(model.device()));
  tape.backward();
  std::map<std::string, Tensor> gradients;
  for (const auto& [name, gradient] : parameters.gradients()) {
    gradients.emplace(name, gradient.to({}));
  }
  return gradients;
}

TEST_F(LanguageModelOnGpu, GradientsAreThoseOfTheCpuWithEveryOption) {
  for (const auto& [name, config] : testing_models::all_configs()) {
    const Parameters exact = testing_models::lively_parameters(config, DType::f64);
    const Parameters floats = exact.cast(DType::f32);
    for (const bool recompute : {false, true}) {
      const auto want = gradients_of(config, exact, recompute);
      const auto here = gradients_of(config, floats, recompute);
      const auto got = gradients_of(config, floats.on(gpu_, DType::f32), recompute);
      for (const auto& [tensor, truth] : want) {
        EXPECT_TRUE(
            close(got.at(tensor), truth, 2e-5 + 20 * relative_difference(here.at(tensor), truth)))
            << name << ": " << tensor;
      }
    }
  }
}

// The second step is recorded, the later ones replay it; a state whose memory changes starts over.
TEST_F(LanguageModelOnGpu, ReplayedStepsAreThoseThatWereLaunchedOneByOne) {
  const Config config = testing_models::small_config();
  const Parameters floats = testing_models::lively_parameters(config, DType::f32);
  const LanguageModel model(config, floats.on(gpu_, DType::f32));
  const std::vector<std::int32_t> prompt = {1, 5, 9};
  const std::vector<std::int64_t> offsets = {0, 2, 3};
  const std::vector<std::int64_t> one_each = {0, 1, 2};
  Arena arena(gpu_);
  State plain(config, 2, DType::f32, gpu_);
  model.advance(arena, {prompt, offsets}, plain);
  State stepped = plain.copy();
  Stepper stepper(model, stepped);
  for (std::int32_t step = 0; step < 8; ++step) {
    const std::vector<std::int32_t> ids = {step, 20 - step};
    if (step == 5) stepped = stepped.copy();
    model.advance(arena, {ids, one_each}, plain);
    stepper.advance(ids);
    EXPECT_TRUE(same_bits(stepped.logits().to({}), plain.logits().to({}))) << step;
    EXPECT_EQ(stepped.tokens(), plain.tokens()) << step;
  }
  EXPECT_TRUE(same_bits(stepped.layers()[0].recurrent.to({}), plain.layers()[0].recurrent.to({})));
  EXPECT_THROW(stepper.advance(std::vector<std::int32_t>{0, 1000}), Error);
}

TEST_F(LanguageModelOnGpu, AStateMovesBetweenDevices) {
  const Config config = testing_models::small_config();
  const Parameters floats = testing_models::lively_parameters(config, DType::f32);
  const LanguageModel here(config, floats);
  const LanguageModel there(config, floats.on(gpu_, DType::f32));
  const std::vector<std::int32_t> ids = {1, 5, 9};
  const std::vector<std::int64_t> offsets = {0, 3};
  Arena arena, arena_there(gpu_);
  State state(config, 1);
  here.advance(arena, {ids, offsets}, state);
  State moved = state.to(gpu_);
  here.advance(arena, {ids, offsets}, state);
  there.advance(arena_there, {ids, offsets}, moved);
  EXPECT_TRUE(close(moved.logits().to({}), state.logits(), 1e-4));
}

}  // namespace
}  // namespace metala
