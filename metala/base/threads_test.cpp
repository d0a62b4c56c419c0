#include "metala/base/threads.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace metala {
namespace {

class Threads : public ::testing::Test {
 protected:
  ~Threads() override { set_thread_count(before_); }

 private:
  int before_ = thread_count();
};

// Waits for `flag`, but not for ever. Returns whether it was set.
bool wait_for(const std::atomic<bool>& flag) {
  const auto start = std::chrono::steady_clock::now();
  while (!flag) {
    if (std::chrono::steady_clock::now() - start > std::chrono::seconds(20)) return false;
    std::this_thread::yield();
  }
  return true;
}

// Whether two tasks of one loop run at the same time: each waits for the other to have begun.
bool two_tasks_meet() {
  std::atomic<bool> begun[2] = {};
  std::atomic<int> met = 0;
  parallel_tasks(2, [&](std::int64_t i) {
    begun[i] = true;
    met += wait_for(begun[1 - i]);
  });
  return met == 2;
}

TEST_F(Threads, EveryTaskRunsOnceOnAnyNumberOfThreads) {
  for (const int count : {1, 2, 3, 8}) {
    set_thread_count(count);
    for (const std::int64_t n : {0, 1, 2, 3, 7, 100, 10'000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(n));
      parallel_tasks(n, [&](std::int64_t i) { ++runs[static_cast<std::size_t>(i)]; });
      for (const auto& r : runs) ASSERT_EQ(r, 1) << n << " tasks on " << count;
    }
  }
}

TEST_F(Threads, RangesAndChunksCoverAllIndicesWithoutOverlap) {
  for (const int count : {1, 2, 5}) {
    set_thread_count(count);
    for (const std::int64_t n : {0, 1, 9, 64, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(n));
      const auto touch = [&](std::int64_t begin, std::int64_t end) {
        ASSERT_LT(begin, end);
        for (std::int64_t i = begin; i < end; ++i) ++runs[static_cast<std::size_t>(i)];
      };
      parallel_ranges(n, 4, touch);
      parallel_chunks(n, 7, touch);
      for (const auto& r : runs) ASSERT_EQ(r, 2) << n << " indices on " << count;
    }
  }
}

TEST_F(Threads, TasksOfALoopMeetAlsoAfterTheHelpersHaveGoneToSleep) {
  set_thread_count(2);
  EXPECT_TRUE(two_tasks_meet());
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_TRUE(two_tasks_meet());
}

TEST_F(Threads, WhatEarlierTasksWroteIsSeenByLaterLoops) {
  set_thread_count(4);
  std::vector<std::int64_t> values(64);
  for (std::int64_t loop = 1; loop <= 20'000; ++loop) {
    parallel_tasks(64,
                   [&](std::int64_t i) { ++values[static_cast<std::size_t>((i + loop) % 64)]; });
  }
  for (const auto v : values) ASSERT_EQ(v, 20'000);
}

TEST_F(Threads, IndicesOfThreadsAreDistinctAndBelowTheirNumber) {
  set_thread_count(8);
  parallel_tasks(100, [](std::int64_t) {});  // so that there are more threads than may work below
  set_thread_count(3);
  std::vector<std::atomic<int>> within(3);
  parallel_tasks(1000, [&](std::int64_t) {
    ASSERT_LT(thread_index(), 3);
    auto& others = within[static_cast<std::size_t>(thread_index())];
    EXPECT_EQ(others++, 0);
    std::this_thread::yield();
    --others;
  });
  EXPECT_EQ(thread_index(), 0);
}

TEST_F(Threads, ALoopWithinALoopRunsOnItsThreadAlone) {
  set_thread_count(4);
  EXPECT_FALSE(in_parallel());
  std::atomic<int> runs = 0;
  parallel_tasks(8, [&](std::int64_t) {
    EXPECT_TRUE(in_parallel());
    const auto self = std::this_thread::get_id();
    parallel_tasks(10, [&](std::int64_t) {
      EXPECT_EQ(std::this_thread::get_id(), self);
      ++runs;
    });
  });
  EXPECT_EQ(runs, 80);
  EXPECT_FALSE(in_parallel());
}

TEST_F(Threads, ALoopBesideAnotherThreadsLoopDoesNotWaitForIt) {
  set_thread_count(2);
  std::atomic<bool> begun = false, may_end = false;
  std::thread other([&] {
    parallel_tasks(2, [&](std::int64_t) {
      begun = true;
      EXPECT_TRUE(wait_for(may_end));
    });
  });
  EXPECT_TRUE(wait_for(begun));
  const auto self = std::this_thread::get_id();
  int runs = 0;
  parallel_tasks(10, [&](std::int64_t) {
    EXPECT_EQ(std::this_thread::get_id(), self);
    ++runs;
  });
  EXPECT_EQ(runs, 10);
  may_end = true;
  other.join();
}

// The child has none of the helpers, and does not wait for them.
TEST_F(Threads, AForkedProcessRunsItsLoopsAlone) {
  set_thread_count(2);
  EXPECT_TRUE(two_tasks_meet());
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);
    int runs = 0;
    parallel_tasks(100, [&](std::int64_t) { ++runs; });
    _exit(runs == 100 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace metala
