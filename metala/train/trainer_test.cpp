// What the trainer minimises, and which steps it leaves out.
#include "metala/train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "metala/base/error.h"
#include "metala/harness/compare.h"
#include "metala/harness/recall_model.h"
#include "metala/harness/refusal.h"

namespace metala {
namespace {

TrainerOptions options() {
  TrainerOptions o;
  o.schedule = {ScheduleKind::linear, 3e-3, 0, 4, 50};
  return o;
}

class RecallTrainer {
 public:
  explicit RecallTrainer(const TrainerOptions& o)
      : trainer_(*ranks_, config_,
                 Parameters::initialized(config_, initialization_named("scaled"), 1), task_, o) {}
  Trainer* operator->() { return &trainer_; }

  std::map<std::string, Tensor> weights() const {
    std::map<std::string, Tensor> all;
    for (const auto& [name, value] : trainer_.optimizer().weights())
      all.emplace(name, value.copy());
    return all;
  }

 private:
  std::unique_ptr<Communicator> ranks_ = alone();
  Config config_ = harness::small_recall_model();
  MqarTask task_ = harness::small_recall_task();
  Trainer trainer_;
};

void expect_same(const std::map<std::string, Tensor>& a, const std::map<std::string, Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, value] : a) {
    EXPECT_TRUE(harness::same_bits(value, b.at(name))) << name;
  }
}

TEST(Trainer, ScalingTheLossByAPowerOfTwoChangesNoBit) {
  TrainerOptions scaled = options();
  scaled.scaling.on = true;
  scaled.scaling.initial_power = 10;
  scaled.scaling.window = 3;  // doubles on the way
  RecallTrainer plain(options()), with(scaled);
  for (int step = 0; step < 8; ++step) {
    const StepReport want = plain->advance(), got = with->advance();
    EXPECT_EQ(got.loss, want.loss);
    EXPECT_EQ(got.gradient_norm, want.gradient_norm);
    EXPECT_EQ(got.loss_scale, std::ldexp(1024, step / 3));
    EXPECT_FALSE(got.overflowed);
  }
  expect_same(with.weights(), plain.weights());
}

TEST(Trainer, StepsThatOverflowAreLeftOutAndNeitherScheduleNorWeightsKnowOfThem) {
  TrainerOptions o = options();
  o.scaling.on = true;
  o.scaling.initial_power = 140;  // beyond float32, until it has been halved often enough
  RecallTrainer trainer(o);
  const auto before = trainer.weights();
  std::int64_t left_out = 0;
  for (;;) {
    const StepReport r = trainer->advance();
    if (!r.overflowed) {
      EXPECT_EQ(r.learning_rate, learning_rate(o.schedule, 0));
      EXPECT_TRUE(std::isfinite(r.loss));
      break;
    }
    ++left_out;
    ASSERT_LT(left_out, 40);
    expect_same(trainer.weights(), before);
  }
  EXPECT_GT(left_out, 2);
  EXPECT_EQ(trainer->scaler().state().left_out, left_out);
  EXPECT_EQ(trainer->advance().learning_rate, learning_rate(o.schedule, 1));
}

TEST(Trainer, AnOverflowThatNoScaleCuresNamesStepAndTensor) {
  TrainerOptions o = options();
  o.scaling.on = true;
  o.scaling.initial_power = 140;
  o.scaling.minimum = std::ldexp(1.0, 140);
  o.scaling.hysteresis = 1;
  RecallTrainer trainer(o);
  const std::string message = harness::refusal_of([&] { trainer->advance(); });
  EXPECT_NE(message.find("train: step 1: the gradient of "), std::string::npos) << message;
  EXPECT_NE(message.find("cannot fall further"), std::string::npos) << message;
}

// Micro batches of 1 and 3 labelled tokens.
class UnevenTask : public TrainingTask {
 public:
  LabelledBatch training_batch(std::int64_t index) const override {
    LabelledBatch b;
    b.ids = {1, 2, 3, 4};
    b.labels = index % 2 == 0 ? std::vector<std::int32_t>{5, -100, -100, -100}
                              : std::vector<std::int32_t>{-100, 6, 7, 8};
    b.offsets = {0, 4};
    return b;
  }
  std::int64_t validation_batches() const override { return 2; }
  LabelledBatch validation_batch(std::int64_t index) const override {
    return training_batch(index);
  }
};

// Every second batch, or all from the third on, has nothing to learn.
class SparseTask : public TrainingTask {
 public:
  explicit SparseTask(bool all) : all_(all) {}
  LabelledBatch training_batch(std::int64_t index) const override {
    LabelledBatch b;
    b.ids = {1, 2, 3, 4};
    const bool empty = all_ ? index >= 2 : index % 2 == 1;
    b.labels.assign(4, empty ? -100 : 5);
    b.offsets = {0, 4};
    return b;
  }
  std::int64_t validation_batches() const override { return 0; }
  LabelledBatch validation_batch(std::int64_t) const override { return {}; }

 private:
  bool all_;
};

TEST(Trainer, ALossThatIsNotFiniteUpdatesNothingAlsoWhereTheGradientIs) {
  const auto ranks = alone();
  const harness::InfiniteLoss hopeless;
  for (const bool mean_of_means : {false, true}) {
    TrainerOptions o = options();
    o.mean_of_means = mean_of_means;
    Trainer trainer(*ranks, hopeless.config, hopeless.parameters, hopeless.task, o);
    const auto before = trainer.optimizer().weights();
    EXPECT_TRUE(harness::refuses([&] { trainer.advance(); }, "train: step 1: the loss is inf"));
    expect_same(trainer.optimizer().weights(), before);
  }
}

TEST(Trainer, MoreMicroBatchesThanAStepCanHoldAreRefused) {
  for (const std::int64_t many : {std::int64_t{0}, std::int64_t{1} << 40, INT64_MAX}) {
    TrainerOptions o = options();
    o.accumulation = many;
    EXPECT_TRUE(harness::refuses([&] { RecallTrainer{o}; }, "--accumulation")) << many;
  }
}

TEST(Trainer, AStepWithoutLabelsIsLeftOut) {
  const auto ranks = alone();
  const Config config = harness::small_recall_model();
  const SparseTask task(false);
  Trainer trainer(*ranks, config,
                  Parameters::initialized(config, initialization_named("scaled"), 1), task,
                  options());
  const auto weights = [&] {
    return trainer.optimizer().weights().at("model.embed_tokens.weight").copy();
  };
  EXPECT_FALSE(trainer.advance().unlabelled);
  const Tensor before = weights();
  const StepReport empty = trainer.advance();
  EXPECT_TRUE(empty.unlabelled);
  EXPECT_EQ(empty.step, 2);
  EXPECT_TRUE(std::isnan(empty.loss) && std::isnan(empty.gradient_norm));
  EXPECT_TRUE(harness::same_bits(weights(), before));
  EXPECT_TRUE(std::isfinite(trainer.advance().loss));
  EXPECT_FALSE(harness::same_bits(weights(), before));

  const SparseTask nothing(true);
  TrainerOptions o = options();
  o.steps = 100;
  Trainer hopeless(*ranks, config,
                   Parameters::initialized(config, initialization_named("scaled"), 1), nothing, o);
  EXPECT_TRUE(harness::refuses([&] { hopeless.run({}); },
                               "step 52: no token of the last 50 steps has a label"));
}

TEST(Trainer, TheLossIsTheMeanOfLabelsOrOnDemandOfTheMicroBatchesMeans) {
  const auto ranks = alone();
  const Config config = harness::small_recall_model();
  const UnevenTask task;
  const auto losses = [&](std::int64_t accumulation, bool means) {
    TrainerOptions o = options();
    o.accumulation = accumulation;
    o.mean_of_means = means;
    Trainer trainer(*ranks, config,
                    Parameters::initialized(config, initialization_named("scaled"), 1), task, o);
    const double validation = trainer.validate().loss;
    const double first = trainer.advance().loss;
    const double gradient = trainer.advance().gradient_norm;
    return std::array{validation, first, gradient};
  };
  // Of each micro batch alone, from the first weights.
  const double of_one = losses(1, false)[1];
  const double all = losses(2, false)[1];  // (a + b) / 4, b the sum of three
  const double of_three = (4 * all - of_one) / 3;
  EXPECT_NEAR(losses(2, false)[0], all, 1e-6);
  EXPECT_NEAR(losses(2, true)[1], (of_one + of_three) / 2, 1e-6);
  EXPECT_NEAR(losses(2, true)[0], (of_one + of_three) / 2, 1e-6);
  EXPECT_NE(losses(2, true)[2], losses(2, false)[2]);  // another gradient too
  EXPECT_GT(std::abs(of_one - of_three), 1e-3);
}

}  // namespace
}  // namespace metala
