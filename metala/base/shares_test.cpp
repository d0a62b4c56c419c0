#include "metala/base/shares.h"

#include <gtest/gtest.h>

#include <thread>

namespace metala {
namespace {

std::vector<std::int64_t> all_for(Shares& shares, int thread) {
  std::vector<std::int64_t> taken;
  for (std::int64_t i; (i = shares.take(thread)) >= 0;) taken.push_back(i);
  return taken;
}

TEST(Shares, AThreadTakesItsOwnFromTheFrontAndThenOthersFromTheBack) {
  Shares shares(10, 3);  // 0 to 2, 3 to 5, 6 to 9
  EXPECT_EQ(shares.peek(1), 3);
  EXPECT_EQ(shares.take(0), 0);
  EXPECT_EQ(all_for(shares, 1), (std::vector<std::int64_t>{3, 4, 5, 9, 8, 7, 6, 2, 1}));
  EXPECT_EQ(shares.peek(0), -1);
  EXPECT_EQ(shares.take(2), -1);
}

TEST(Shares, FewerIndicesThanThreadsLeaveSharesEmpty) {
  Shares shares(1, 3);
  EXPECT_EQ(all_for(shares, 0), (std::vector<std::int64_t>{0}));
  shares.deal(0, 2);
  EXPECT_EQ(shares.take(1), -1);
}

TEST(Shares, EveryIndexIsTakenOnceHoweverManyThreadsTake) {
  constexpr int threads = 4;
  constexpr std::int64_t n = 200'000;
  Shares shares(n, threads);
  std::vector<std::vector<std::int64_t>> taken(threads);
  {
    std::vector<std::jthread> team;
    for (int t = 0; t < threads; ++t) {
      team.emplace_back([&, t] { taken[static_cast<std::size_t>(t)] = all_for(shares, t); });
    }
  }
  std::vector<int> times(n);
  for (const auto& some : taken) {
    for (const std::int64_t i : some) ++times[static_cast<std::size_t>(i)];
  }
  for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(times[static_cast<std::size_t>(i)], 1) << i;
}

}  // namespace
}  // namespace metala
