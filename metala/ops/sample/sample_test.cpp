#include "metala/ops/sample/sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "metala/base/error.h"
#include "metala/base/random.h"
#include "metala/harness/refusal.h"

namespace metala {
namespace {

using sample::Options;

std::vector<float> random_logits(std::size_t n, std::uint64_t seed) {
  std::vector<float> logits;
  for (std::size_t i = 0; i < n; ++i) {
    logits.push_back(static_cast<float>(2 * Philox(seed).normal(i)));
  }
  return logits;
}

std::map<std::int32_t, double> shares(const Options& options, const std::vector<float>& logits,
                                      int draws = 20000,
                                      const std::vector<std::int32_t>& recent = {}) {
  std::map<std::int32_t, double> counts;
  for (int i = 0; i < draws; ++i) {
    counts[sample::next(options, logits, recent, {3, static_cast<std::uint64_t>(i)})] +=
        1.0 / draws;
  }
  return counts;
}

TEST(Sample, DrawsFollowTheSoftmaxAtEveryTemperature) {
  const auto logits = random_logits(12, 1);
  for (const double temperature : {0.5, 1.0, 2.0}) {
    Options options;
    options.temperature = temperature;
    double total = 0;
    for (const float z : logits) total += std::exp(static_cast<double>(z) / temperature);
    const auto seen = shares(options, logits);
    for (std::int32_t id = 0; id < 12; ++id) {
      const double p =
          std::exp(static_cast<double>(logits[static_cast<std::size_t>(id)]) / temperature) / total;
      const double share = seen.contains(id) ? seen.at(id) : 0;
      // Five standard deviations of 20,000 draws.
      EXPECT_NEAR(share, p, 5 * std::sqrt(p * (1 - p) / 20000) + 1e-9) << id;
    }
  }
}

TEST(Sample, ADrawIsAFunctionOfSeedStreamAndPosition) {
  const auto logits = random_logits(1000, 2);
  Options options;
  options.seed = 5;
  EXPECT_EQ(sample::next(options, logits, {}, {1, 2}), sample::next(options, logits, {}, {1, 2}));
  std::set<std::int32_t> seen;
  for (std::uint64_t i = 0; i < 50; ++i) {
    seen.insert(sample::next(options, logits, {}, {1, i}));
    seen.insert(sample::next(options, logits, {}, {i + 2, 2}));
  }
  EXPECT_GT(seen.size(), 30u);
}

TEST(Sample, TemperatureZeroAndTopKOfOneTakeTheFirstLargest) {
  const std::vector<float> logits = {1, 5, 2, 5};
  Options greedy;
  greedy.temperature = 0;
  Options best;
  best.top_k = 1;
  EXPECT_EQ(sample::next(greedy, logits, {}, {}), 1);
  EXPECT_EQ(sample::next(best, logits, {}, {}), 1);
}

TEST(Sample, TopKKeepsTheKBestAndTiesGoToTheLowerId) {
  const std::vector<float> logits = {1, 3, 3, 0, 3};
  Options options;
  options.top_k = 2;
  const auto seen = shares(options, logits, 2000);
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_TRUE(seen.contains(1) && seen.contains(2));
}

TEST(Sample, TopPKeepsTheSmallestSetThatReachesP) {
  // Probabilities 0.5, 0.3, 0.15, 0.05.
  const std::vector<float> logits = {std::log(0.15f), std::log(0.5f), std::log(0.05f),
                                     std::log(0.3f)};
  const auto kept = [&](double p) {
    Options options;
    options.top_p = p;
    std::set<std::int32_t> ids;
    for (const auto& [id, share] : shares(options, logits, 2000)) ids.insert(id);
    return ids;
  };
  EXPECT_EQ(kept(0.4), (std::set<std::int32_t>{1}));
  EXPECT_EQ(kept(0.7), (std::set<std::int32_t>{1, 3}));
  EXPECT_EQ(kept(0.9), (std::set<std::int32_t>{0, 1, 3}));
  EXPECT_EQ(kept(1.0), (std::set<std::int32_t>{0, 1, 2, 3}));
}

TEST(Sample, TopPOfALargeVocabularyAgreesWithSortingIt) {
  const auto logits = random_logits(5000, 4);
  Options options;
  options.top_p = 0.6;
  std::vector<std::pair<double, std::int32_t>> sorted;
  double total = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    sorted.emplace_back(-std::exp(static_cast<double>(logits[i])), static_cast<std::int32_t>(i));
    total -= sorted.back().first;
  }
  std::sort(sorted.begin(), sorted.end());
  std::set<std::int32_t> allowed;
  for (double sum = 0; const auto& [weight, id] : sorted) {
    if (sum >= 0.6 * total) break;
    allowed.insert(id);
    sum -= weight;
  }
  for (const auto& [id, share] : shares(options, logits, 3000)) {
    EXPECT_TRUE(allowed.contains(id)) << id;
  }
}

TEST(Sample, MinPDropsWhatIsFarBelowTheBest) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.04f)};
  Options options;
  options.min_p = 0.1;
  EXPECT_EQ(shares(options, logits, 2000).size(), 2u);
}

TEST(Sample, ThePenaltyMakesRecentIdsLessLikelyWhateverTheirSign) {
  const std::vector<float> logits = {2, 2, -2, -2};
  Options options;
  options.repetition_penalty = 2;
  const auto seen = shares(options, logits, 20000, {0, 2, 2, 999});
  EXPECT_LT(seen.at(0), 0.6 * seen.at(1));
  EXPECT_LT(seen.contains(2) ? seen.at(2) : 0, 0.6 * seen.at(3));
}

TEST(Sample, BiasMovesLogits) {
  Options options;
  options.temperature = 0;
  options.logit_bias = {{2, 10.0f}};
  EXPECT_EQ(sample::next(options, std::vector<float>{1, 5, 2}, {}, {}), 2);
}

TEST(Sample, NanAndNoFiniteLogitAreRefusedAndMinusInfinityIsNeverDrawn) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_THROW(sample::next({}, std::vector<float>{1, NAN}, {}, {}), Error);
  EXPECT_THROW(sample::next({}, std::vector<float>{-infinity, -infinity}, {}, {}), Error);
  EXPECT_EQ(shares({}, {0, -infinity, 0}, 2000).count(1), 0u);
}

TEST(Sample, LogProbabilitiesAreThoseOfTheSoftmaxBestFirst) {
  const std::vector<float> logits = {std::log(0.2f), std::log(0.7f), std::log(0.1f)};
  EXPECT_NEAR(sample::log_probability(logits, 0), std::log(0.2), 1e-6);
  const auto best = sample::top(logits, 2);
  ASSERT_EQ(best.size(), 2u);
  EXPECT_EQ(best[0].first, 1);
  EXPECT_EQ(best[1].first, 0);
  EXPECT_NEAR(best[0].second, std::log(0.7), 1e-6);
}

TEST(Sample, OptionsOutOfRangeAreRefusedByName) {
  Options options;
  options.top_p = 0;
  EXPECT_EQ(harness::refusal_of([&] { sample::check(options); }),
            "sample: top_p is 0; wanted more than 0, at most 1");
}

}  // namespace
}  // namespace metala
