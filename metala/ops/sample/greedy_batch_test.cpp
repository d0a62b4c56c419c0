#include <gtest/gtest.h>

#include <limits>

#include "metala/harness/gpu.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/sample/greedy_batch.h"

namespace metala::sample {
namespace {

using harness::random_normal;

// Few distinct values, so that the largest comes many times.
Tensor with_ties(std::int64_t rows, std::int64_t vocabulary) {
  const Tensor logits = random_normal({rows, vocabulary}, DType::f32, 3);
  for (std::int64_t i = 0; i < logits.count(); ++i) {
    logits.data<float>()[i] = std::min(1.0f, std::round(logits.data<float>()[i]));
  }
  return logits;
}

std::vector<std::int32_t> one_by_one(const Tensor& logits) {
  Options greedy;
  greedy.temperature = 0;
  std::vector<std::int32_t> ids;
  for (std::int64_t b = 0; b < logits.size(0); ++b) {
    const std::span<const float> row(logits.row(b).data<float>(),
                                     static_cast<std::size_t>(logits.size(1)));
    ids.push_back(next(greedy, row, {}, {}));
  }
  return ids;
}

void expect_the_same(const Tensor& logits, Device device) {
  GreedyBatch batch(device, logits.size(0));
  const auto chosen = batch.choose(logits.to(device));
  EXPECT_EQ(std::vector<std::int32_t>(chosen.begin(), chosen.end()), one_by_one(logits));
}

void expect_refusals(Device device) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  GreedyBatch batch(device, 2);
  const Tensor logits = random_normal({2, 5000}, DType::f32, 4);
  logits.data<float>()[7000] = nan;
  try {
    batch.choose(logits.to(device));
    ADD_FAILURE() << "NaN was accepted";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "sample: the logit of id 2000 is NaN");
  }
  const Tensor nowhere =
      harness::filled({2, 10}, DType::f32, -std::numeric_limits<double>::infinity());
  EXPECT_THROW(batch.choose(nowhere.to(device)), Error);
  EXPECT_THROW(batch.choose(random_normal({3, 10}, DType::f32, 1).to(device)), Error);
}

TEST(GreedyBatch, ChoosesAsNextDoes) {
  for (const std::int64_t vocabulary : {1, 31, 5000}) {
    expect_the_same(with_ties(3, vocabulary), {});
    expect_the_same(random_normal({3, vocabulary}, DType::f32, 5), {});
  }
}

TEST(GreedyBatch, RefusesWhatHasNoLargest) {
  expect_refusals({});
}

class GreedyBatchOnGpu : public harness::GpuTest {};

TEST_F(GreedyBatchOnGpu, ChoosesAsNextDoes) {
  for (const std::int64_t vocabulary : {1, 31, 32, 1023, 1025, 5000, 32000}) {
    expect_the_same(with_ties(5, vocabulary), gpu_);
    expect_the_same(random_normal({5, vocabulary}, DType::f32, 5), gpu_);
  }
}

TEST_F(GreedyBatchOnGpu, RefusesWhatHasNoLargest) {
  expect_refusals(gpu_);
}

TEST(GreedyBatch, CoversGreedyWithoutPenaltiesOnly) {
  Options o;
  EXPECT_FALSE(GreedyBatch::covers(o));
  o.temperature = 0;
  EXPECT_TRUE(GreedyBatch::covers(o));
  o.repetition_penalty = 1.1;
  EXPECT_FALSE(GreedyBatch::covers(o));
  o.repetition_penalty = 1;
  o.logit_bias = {{3, 1.0f}};
  EXPECT_FALSE(GreedyBatch::covers(o));
}

}  // namespace
}  // namespace metala::sample
