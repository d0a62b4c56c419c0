#include <gtest/gtest.h>

#include <cmath>

#include "metala/harness/gpu.h"
#include "metala/harness/recall_model.h"
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

}  // namespace
}  // namespace metala
