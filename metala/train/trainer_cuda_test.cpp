#include <gtest/gtest.h>

#include <cmath>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/harness/recall_model.h"
#include "metala/harness/refusal.h"
#include "metala/model/parameters.h"
#include "metala/train/trainer.h"

namespace metala {
namespace {

class TrainerOnGpu : public harness::GpuTest {
 protected:
  // Losses of the first steps of a small model that learns associative recall.
  static std::vector<double> losses(Device device, DType type, std::int64_t steps) {
    const MqarTask task = harness::small_recall_task();
    Config config = harness::small_recall_model();
    config.embedding_dropout = 0.1;
    TrainerOptions options;
    options.device = device;
    options.dtype = type;
    options.scaling.on = type == DType::f16;
    options.schedule = {ScheduleKind::constant, 3e-3, 3e-3, 0, 100};
    const auto ranks = alone();
    Trainer trainer(*ranks, config,
                    Parameters::initialized(config, initialization_named("scaled"), 1), task,
                    options);
    std::vector<double> all;
    for (std::int64_t step = 0; step < steps; ++step) all.push_back(trainer.advance().loss);
    all.push_back(trainer.validate().loss);
    return all;
  }
};

TEST_F(TrainerOnGpu, LossesFollowThoseOfTheCpu) {
  const auto want = losses({}, DType::f32, 30);
  const auto got = losses(gpu_, DType::f32, 30);
  const auto rounded = losses(gpu_, DType::bf16, 30);
  const auto half = losses(gpu_, DType::f16, 30);
  for (std::size_t i = 0; i < want.size(); ++i) {
    EXPECT_NEAR(got[i], want[i], 2e-3) << "step " << i;
    EXPECT_NEAR(rounded[i], want[i], 0.1) << "step " << i;
    EXPECT_NEAR(half[i], want[i], 0.1) << "step " << i;
  }
}

TEST_F(TrainerOnGpu, TheSameRunGivesTheSameBits) {
  EXPECT_EQ(losses(gpu_, DType::bf16, 10), losses(gpu_, DType::bf16, 10));
}

TEST_F(TrainerOnGpu, ALossThatIsNotFiniteUpdatesNothingAlsoWhereTheGradientIs) {
  const auto ranks = alone();
  const harness::InfiniteLoss hopeless;
  for (const bool mean_of_means : {false, true}) {
    TrainerOptions o;
    o.device = gpu_;
    o.mean_of_means = mean_of_means;
    o.schedule = {ScheduleKind::constant, 1e-3, 1e-3, 0, 100};
    Trainer trainer(*ranks, hopeless.config, hopeless.parameters, hopeless.task, o);
    const auto before = trainer.optimizer().weights();
    EXPECT_TRUE(harness::refuses([&] { trainer.advance(); }, "train: step 1: the loss is inf"));
    for (const auto& [name, value] : trainer.optimizer().weights()) {
      EXPECT_TRUE(harness::same_bits(value, before.at(name))) << name;
    }
  }
}

// A batch of every one of some lists of lengths in turn, next tokens as labels.
class LengthsTask : public TrainingTask {
 public:
  explicit LengthsTask(std::vector<std::vector<std::int64_t>> lengths)
      : lengths_(std::move(lengths)) {}
  LabelledBatch training_batch(std::int64_t index) const override {
    LabelledBatch batch;
    batch.offsets = {0};
    const auto which = static_cast<std::size_t>(index) % lengths_.size();
    for (const auto length : lengths_[which])
      batch.offsets.push_back(batch.offsets.back() + length);
    for (std::int64_t i = 0; i < batch.offsets.back(); ++i) {
      batch.ids.push_back(static_cast<std::int32_t>((index + 3 * i) % 100));
      batch.labels.push_back(i % 5 == 0 ? -100 : batch.ids.back());
    }
    return batch;
  }
  std::int64_t validation_batches() const override { return 1; }
  LabelledBatch validation_batch(std::int64_t) const override { return training_batch(0); }

 private:
  std::vector<std::vector<std::int64_t>> lengths_;
};

class TrainingPassOnGpu : public harness::GpuTest {
 protected:
  static Config config(std::int64_t width, std::int64_t layers) {
    Config c;
    c.width = width;
    c.query_width = width / 2;
    c.heads = width / 128;
    c.layers = layers;
    c.glu_width = 2 * width;
    c.vocab_size = 128;
    return c;
  }
  TrainerOptions options(bool replay) const {
    TrainerOptions o;
    o.device = gpu_;
    o.dtype = DType::bf16;
    o.schedule = {ScheduleKind::constant, 1e-3, 1e-3, 0, 100};
    o.replay = replay;
    return o;
  }
  // The weights after some steps, validated in between.
  std::map<std::string, Tensor> trained(const TrainingTask& task, TrainerOptions o) const {
    const auto ranks = alone();
    const Config c = config(128, 2);
    Trainer trainer(*ranks, c, Parameters::initialized(c, initialization_named("scaled"), 1), task,
                    o);
    for (int step = 0; step < 8; ++step) {
      trainer.advance();
      if (step == 4) trainer.validate();
    }
    std::map<std::string, Tensor> weights;
    for (const auto& [name, value] : trainer.optimizer().weights()) {
      weights.emplace(name, value.copy());
    }
    return weights;
  }
  void expect_the_same_with_replay(const TrainingTask& task, std::int64_t accumulation,
                                   bool recompute) const {
    TrainerOptions once = options(false), again = options(true);
    for (TrainerOptions* o : {&once, &again}) {
      o->accumulation = accumulation;
      o->model.recompute_blocks = recompute;
    }
    const auto want = trained(task, once);
    const auto got = trained(task, again);
    for (const auto& [name, value] : want) {
      EXPECT_TRUE(harness::same_bits(got.at(name), value)) << name;
    }
  }
};

TEST_F(TrainingPassOnGpu, ReplayedPassesGiveTheSameBits) {
  for (const std::int64_t accumulation : {1, 3}) {
    for (const bool recompute : {false, true}) {
      expect_the_same_with_replay(LengthsTask({std::vector<std::int64_t>{200, 1, 77}}),
                                  accumulation, recompute);
    }
  }
}

TEST_F(TrainingPassOnGpu, BatchesMayChangeTheirShapes) {
  expect_the_same_with_replay(LengthsTask({{100}, {100}, {100}, {50, 50}, {300}, {300}, {40, 60}}),
                              1, false);
}

TEST_F(TrainingPassOnGpu, APassTakesTheMemoryThatWasPredicted) {
  const Config c = config(128, 3);
  for (const bool recompute : {false, true}) {
    const Parameters weights = Parameters::initialized(c, initialization_named("scaled"), 1);
    const auto ranks = alone();
    ZeroOptimizer optimizer(*ranks, weights, {gpu_, DType::bf16});
    const LanguageModel model(c, optimizer.parameters());
    TrainingPass pass(model, cross_entropy::zero_sums(gpu_), true);
    TrainingOptions training;
    training.recompute_blocks = recompute;
    const LengthsTask task({std::vector<std::int64_t>{2000, 48}});
    std::size_t capacity = 0;
    for (int i = 0; i < 4; ++i) {
      pass.run(task.training_batch(i), nullptr, 1, training);
      memory_of(gpu_).synchronize();
      EXPECT_EQ(pass.arena().peak(), pass.arena().capacity());
      if (i > 0) {
        EXPECT_EQ(pass.arena().capacity(), capacity);
      }
      capacity = pass.arena().capacity();
    }
    EXPECT_GT(capacity, 0u);
  }
}

TEST_F(TrainingPassOnGpu, TooLargeABatchIsRefusedBeforeTheFirstPass) {
  const Config c = config(256, 96);
  const Parameters weights = Parameters::initialized(c, initialization_named("scaled"), 1);
  const auto ranks = alone();
  ZeroOptimizer optimizer(*ranks, weights, {gpu_, DType::bf16});
  const LanguageModel model(c, optimizer.parameters());
  TrainingPass pass(model, cross_entropy::zero_sums(gpu_), true);
  const auto million = LengthsTask({std::vector<std::int64_t>{1 << 20}}).training_batch(0);
  const std::string text = harness::refusal_of([&] { pass.run(million, nullptr, 1, {}); });
  for (const char* part : {"1048576 tokens need", "are free on cuda:0", "--recompute needs",
                           "--sequences", "--sequence-length"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
  }
  pass.run(LengthsTask({std::vector<std::int64_t>{100}}).training_batch(0), nullptr, 1,
           {});  // a smaller one goes
  memory_of(gpu_).synchronize();
}

}  // namespace
}  // namespace metala
