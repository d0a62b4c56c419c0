// Ranks with a GPU each, through NCCL: operations, and training against one GPU. Skipped, and said
// to be, where the build or the machine lacks what they need.
#include <gtest/gtest.h>

#include <cmath>

#include "metala/device/open_device.h"
#include "metala/harness/compare.h"
#include "metala/harness/ranks.h"
#include "metala/harness/recall_model.h"
#include "metala/train/trainer.h"

namespace metala {
namespace {

using harness::world;

class GpuRanks : public testing::Test {
 protected:
  void SetUp() override {
    const Launch launch = launch_from(environment_variable);
    bool ready = nccl_built();
    try {
      if (ready) gpu_ = open_device(fmt::format("cuda:{}", launch.local_rank));
    } catch (const Error&) {
      ready = false;
    }
    if (world().size() == 1 || world().any(!ready, "GPUs"))
      GTEST_SKIP() << "needs NCCL and a GPU for each rank";
    const std::shared_ptr<Communicator> all(&world(), [](Communicator*) {});  // not ours to end
    group_ = launch.by_mpi ? gpu_group(gpu_, all, std::chrono::minutes(5)) : all;
  }

  Tensor numbered(std::int64_t count, DType type = DType::f32) const {
    const Tensor t = Tensor::zeros({count});
    for (std::int64_t i = 0; i < count; ++i) {
      t.data<float>()[i] = static_cast<float>(8 * group_->rank() + i % 64);
    }
    return t.cast(type).to(gpu_);
  }
  float sum(std::int64_t i) const {
    const int n = group_->size();
    return static_cast<float>(4 * n * (n - 1) + n * (i % 64));
  }

  Device gpu_;
  std::shared_ptr<Communicator> group_;
};

TEST_F(GpuRanks, ReduceScatterAndAllGatherMakeTheSumOfAll) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const std::int64_t each = 100000;
    const Tensor from = numbered(each * group_->size(), type);
    const Tensor part = Tensor::zeros({each}, type, gpu_);
    const Tensor whole = Tensor::zeros(from.shape(), type, gpu_);
    group_->reduce_scatter(from, part, "numbers");
    group_->all_gather(part, whole, "numbers");
    const auto values = harness::values(whole.to({}));
    for (std::int64_t i = 0; i < whole.count(); ++i) {
      ASSERT_EQ(values[static_cast<std::size_t>(i)], sum(i)) << i;
    }
  }
}

TEST_F(GpuRanks, AllGatherInPlaceBroadcastAndExchange) {
  const int rank = group_->rank(), size = group_->size();
  const Tensor all = Tensor::zeros({6 * size}, DType::f32, gpu_);
  const Tensor mine = all.rows(6 * rank, 6 * (rank + 1));
  mine.copy_from(numbered(6));
  group_->all_gather(mine, all, "numbers");
  EXPECT_EQ(all.to({}).data<float>()[6 * (size - 1) + 2], static_cast<float>(8 * (size - 1) + 2));
  const Tensor t = numbered(4);
  group_->broadcast(t, 1, "numbers");
  EXPECT_EQ(t.to({}).data<float>()[3], 11);
  const Tensor in = Tensor::zeros({4}, DType::f32, gpu_);
  const bool first = rank == 0, last = rank + 1 == size;
  group_->exchange(last ? Tensor() : numbered(4), rank + 1, first ? Tensor() : in, rank - 1, "n");
  EXPECT_EQ(in.to({}).data<float>()[1], first ? 0 : static_cast<float>(8 * (rank - 1) + 1));
}

TEST_F(GpuRanks, NumbersOnTheCpuTravelToo) {
  const Tensor t = Tensor::zeros({2}, DType::f64);
  t.data<double>()[1] = group_->rank() + 1;
  group_->all_reduce(t, "numbers");
  EXPECT_EQ(t.data<double>()[1], group_->size() * (group_->size() + 1) / 2.0);
  EXPECT_TRUE(group_->any(group_->rank() == 1, "flags"));
}

TEST_F(GpuRanks, TrainingGivesTheLossesOfOneGpu) {
  const MqarTask task = harness::small_recall_task();
  Config config = harness::small_recall_model();
  config.embedding_dropout = 0.1;
  const auto losses = [&](Communicator& ranks, DType type, int context = 1) {
    TrainerOptions options;
    options.device = gpu_;
    options.dtype = type;
    options.context_ranks = context;
    options.accumulation = 4 * context / ranks.size();
    options.scaling.on = type == DType::f16;
    options.bucket_bytes = 16384;
    options.adamw.epsilon = 1e-5;
    options.schedule = {ScheduleKind::constant, 1e-3, 1e-3, 0, 100};
    Trainer trainer(ranks, config,
                    Parameters::initialized(config, initialization_named("scaled"), 1), task,
                    options);
    std::vector<double> all;
    for (int step = 0; step < 30; ++step) all.push_back(trainer.advance().loss);
    all.push_back(trainer.validate().loss);
    for (const auto& [name, value] : trainer.optimizer().weights()) {
      all.push_back(harness::values(value)[0]);
    }
    return all;
  };
  const auto one = alone();
  for (const DType type : {DType::f32, DType::bf16, DType::f16}) {
    const auto want = losses(*one, type);
    // Micro batches divided among ranks, and sequences.
    for (const int context : {1, 2}) {
      SCOPED_TRACE(fmt::format("{}, {} ranks a sequence", name_of(type), context));
      const auto got = losses(*group_, type, context);
      ASSERT_EQ(got.size(), want.size());
      for (std::size_t i = 0; i < want.size(); ++i) {
        const double bound = type == DType::f32 ? 1e-3 : 2e-2;
        EXPECT_TRUE(std::abs(got[i] - want[i]) <= bound) << i << ": " << got[i] << ", " << want[i];
      }
      EXPECT_EQ(got, losses(*group_, type, context)) << "the same run gives the same bits";
    }
  }
}

}  // namespace
}  // namespace metala
