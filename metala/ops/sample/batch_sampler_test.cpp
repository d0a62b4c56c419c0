#include <gtest/gtest.h>

#include <limits>

#include "metala/harness/gpu.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/sample/batch_sampler.h"

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

std::vector<Draw> draws_of(std::int64_t rows, std::uint64_t position = 0) {
  std::vector<Draw> draws;
  for (std::int64_t b = 0; b < rows; ++b)
    draws.push_back({static_cast<std::uint64_t>(b), position});
  return draws;
}

std::vector<std::int32_t> one_by_one(const Options& options, const Tensor& logits,
                                     const std::vector<Draw>& draws) {
  std::vector<std::int32_t> ids;
  for (std::int64_t b = 0; b < logits.size(0); ++b) {
    const std::span<const float> row(logits.row(b).data<float>(),
                                     static_cast<std::size_t>(logits.size(1)));
    ids.push_back(next(options, row, {}, draws[static_cast<std::size_t>(b)]));
  }
  return ids;
}

const Options greedy = {.temperature = 0};

void expect_the_same(const Options& options, const Tensor& logits, Device device) {
  BatchSampler batch(device, logits.size(0), options);
  const Tensor there = logits.to(device);
  for (std::uint64_t position = 0; position < 4; ++position) {
    const auto draws = draws_of(logits.size(0), position);
    const auto chosen = batch.choose(there, draws);
    EXPECT_EQ(std::vector<std::int32_t>(chosen.begin(), chosen.end()),
              one_by_one(options, logits, draws));
  }
}

// Every kind of cut, alone and together.
void expect_the_same_draws(std::int64_t vocabulary, Device device) {
  std::vector<Options> all = {{.temperature = 0.7}, {.temperature = 1.5, .seed = 7}};
  for (const std::int32_t k : {1, 2, 40, 1000}) all.push_back({.top_k = k});
  for (const double p : {1e-9, 0.3, 0.9, 0.999}) all.push_back({.top_p = p});
  for (const double p : {0.02, 0.5, 1.0}) all.push_back({.min_p = p});
  all.push_back({.temperature = 0.8, .top_k = 50, .top_p = 0.95, .min_p = 0.01, .seed = 3});
  all.push_back({.temperature = 1e-40});
  all.push_back({.temperature = 100, .top_p = 0.9});
  for (const Options& options : all) {
    SCOPED_TRACE(fmt::format("V {}: temperature {}, top-k {}, top-p {}, min-p {}", vocabulary,
                             options.temperature, options.top_k, options.top_p, options.min_p));
    expect_the_same(options, with_ties(5, vocabulary), device);
    Tensor logits = random_normal({5, vocabulary}, DType::f32, 5, 3);
    expect_the_same(options, logits, device);
    if (vocabulary > 2) logits.data<float>()[1] = -std::numeric_limits<float>::infinity();
    expect_the_same(options, logits, device);
  }
}

void expect_refusals(const Options& options, Device device) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  BatchSampler batch(device, 2, options);
  const auto draws = draws_of(2);
  const Tensor logits = random_normal({2, 5000}, DType::f32, 4);
  logits.data<float>()[7000] = nan;
  try {
    batch.choose(logits.to(device), draws);
    ADD_FAILURE() << "NaN was accepted";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "sample: the logit of id 2000 is NaN");
  }
  const Tensor nowhere =
      harness::filled({2, 10}, DType::f32, -std::numeric_limits<double>::infinity());
  EXPECT_THROW(batch.choose(nowhere.to(device), draws), Error);
  EXPECT_THROW(batch.choose(random_normal({3, 10}, DType::f32, 1).to(device), draws), Error);
}

TEST(BatchSampler, ChoosesAsNextDoes) {
  for (const std::int64_t vocabulary : {1, 31, 5000}) {
    expect_the_same(greedy, with_ties(3, vocabulary), {});
    expect_the_same_draws(vocabulary, {});
  }
}

TEST(BatchSampler, RefusesWhatHasNoLargest) {
  expect_refusals(greedy, {});
  expect_refusals({}, {});
}

class BatchSamplerOnGpu : public harness::GpuTest {};

TEST_F(BatchSamplerOnGpu, ChoosesTheLargestAsNextDoes) {
  for (const std::int64_t vocabulary : {1, 31, 32, 1023, 1025, 5000, 32000}) {
    expect_the_same(greedy, with_ties(5, vocabulary), gpu_);
    expect_the_same(greedy, random_normal({5, vocabulary}, DType::f32, 5), gpu_);
  }
}

TEST_F(BatchSamplerOnGpu, DrawsAsNextDoes) {
  // Not more ids: where each has little of the weight, float32 tells neighbours apart no better.
  for (const std::int64_t vocabulary : {1, 31, 1025, 32000}) {
    expect_the_same_draws(vocabulary, gpu_);
  }
  expect_the_same({}, random_normal({2, 250000}, DType::f32, 5, 4), gpu_);
  expect_the_same({}, random_normal({2, 300000}, DType::f32, 5, 4), gpu_);  // on the CPU
}

TEST_F(BatchSamplerOnGpu, RefusesWhatHasNoLargest) {
  expect_refusals(greedy, gpu_);
  expect_refusals({}, gpu_);
}

TEST(BatchSampler, CoversWhatTreatsAllIdsAlike) {
  Options o;
  EXPECT_TRUE(BatchSampler::covers(o));
  o.repetition_penalty = 1.1;
  EXPECT_FALSE(BatchSampler::covers(o));
  o.repetition_penalty = 1;
  o.logit_bias = {{3, 1.0f}};
  EXPECT_FALSE(BatchSampler::covers(o));
}

}  // namespace
}  // namespace metala::sample
