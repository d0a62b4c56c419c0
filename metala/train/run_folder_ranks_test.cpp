// Checkpoints that several ranks write while they go on.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <thread>

#include "metala/base/error.h"
#include "metala/harness/ranks.h"
#include "metala/harness/refusal.h"
#include "metala/harness/temporary_folder.h"
#include "metala/harness/test_models.h"
#include "metala/train/run_folder.h"

namespace metala {
namespace {

using harness::world;

class Saving : public testing::Test {
 protected:
  // A folder of rank 0 that all know.
  void SetUp() override {
    const Tensor name = Tensor::zeros({256}, DType::u8);
    if (world().rank() == 0) {
      folder_.emplace();
      const std::string path = folder_->path();
      std::copy(path.begin(), path.end(), name.data<std::uint8_t>());
    }
    world().broadcast(name, 0, "name of a folder");
    run_ = reinterpret_cast<const char*>(name.data<std::uint8_t>());
  }
  void TearDown() override { world().barrier("end of a test"); }

  RunState state() const {
    const Config config = testing_models::small_config();
    const Parameters parameters = testing_models::lively_parameters(config, DType::f32);
    RunState s = {config, parameters.tensors(), {}, "{}\n"};
    const Tensor part = Tensor::zeros({3});
    part.data<float>()[0] = static_cast<float>(world().rank());
    s.optimizer.emplace(
        fmt::format("first_moment.x[{}:{}]", 3 * world().rank(), 3 * world().rank() + 3), part);
    return s;
  }
  std::int64_t newest() const {
    const auto found = newest_checkpoint(run_);
    return found ? found->step : -1;
  }

  std::optional<harness::TemporaryFolder> folder_;
  std::string run_;
};

TEST_F(Saving, RanksGoOnUntilTheLastPartIsWrittenAndThenTheCheckpointIsWhole) {
  std::atomic<bool> may_end = world().rank() != 1;
  CheckpointSave save(
      world(), run_, 7,
      [&] {
        while (!may_end) std::this_thread::yield();
        return state();
      },
      {}, 0);
  for (int step = 0; step < 3; ++step) {
    EXPECT_FALSE(save.advance());
    EXPECT_EQ(newest(), -1);
  }
  may_end = true;
  while (!save.advance()) std::this_thread::yield();
  world().barrier("the checkpoint");
  ASSERT_EQ(newest(), 7);
  const auto checkpoint = *newest_checkpoint(run_);
  verify_checkpoint_of_run(checkpoint);
  const RunState loaded = load_checkpoint_of_run(checkpoint);
  EXPECT_EQ(loaded.optimizer.size(), static_cast<std::size_t>(world().size()));
  EXPECT_EQ(loaded.optimizer.at("first_moment.x[3:6]").data<float>()[0], 1);
  EXPECT_EQ(loaded.parameters.size(), state().parameters.size());
}

TEST_F(Saving, WhereOneRankFailsAllThrowAndNothingNewIsLeft) {
  CheckpointSave(
      world(), run_, 5, [&] { return state(); }, {}, 0)
      .finish();
  CheckpointSave save(
      world(), run_, 6,
      [&] {
        require(world().rank() != 1, "the disk is full");
        return state();
      },
      {}, 0);
  EXPECT_EQ(harness::refusal_of([&] { save.finish(); }),
            fmt::format("rank 1 of {}: the disk is full", world().size()));
  world().barrier("the failure");
  EXPECT_EQ(newest(), 5);
  EXPECT_FALSE(std::filesystem::exists(run_ + "/step-00000006.partial"));
}

TEST_F(Saving, TheOldestBeyondThoseToKeepAreRemoved) {
  for (const std::int64_t step : {1, 2, 3}) {
    CheckpointSave(
        world(), run_, step, [&] { return state(); }, {}, 2)
        .finish();
  }
  world().barrier("three checkpoints");
  EXPECT_FALSE(std::filesystem::exists(run_ + "/step-00000001"));
  EXPECT_TRUE(std::filesystem::exists(run_ + "/step-00000002"));
  EXPECT_EQ(newest(), 3);
}

}  // namespace
}  // namespace metala
