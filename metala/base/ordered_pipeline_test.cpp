// Pieces are worked on side by side and come out in order.
#include "metala/base/ordered_pipeline.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <string>

#include "metala/base/error.h"
#include "metala/harness/refusal.h"

namespace metala {
namespace {

TEST(OrderedPipeline, ResultsComeInTheOrderOfThePieces) {
  for (const int workers : {1, 2, 5}) {
    int next = 0;
    std::vector<int> out;
    ordered_pipeline<int, int>(
        workers,
        [&](int& piece) {
          piece = next;
          return next++ < 100;
        },
        [](int piece) {
          if (piece % 7 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
          return piece * piece;
        },
        [&](int result) { out.push_back(result); });
    ASSERT_EQ(out.size(), 100u) << workers;
    for (int i = 0; i < 100; ++i) EXPECT_EQ(out[static_cast<std::size_t>(i)], i * i);
  }
}

TEST(OrderedPipeline, PiecesAreTakenOnlyAFewAhead) {
  std::atomic<int> taken = 0;
  std::atomic<int> put = 0;
  int most = 0;
  ordered_pipeline<int, int>(
      3,
      [&](int& piece) {
        piece = taken++;
        most = std::max(most, taken - put);
        return piece < 200;
      },
      [](int piece) {
        if (piece == 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
        return piece;
      },
      [&](int) { ++put; });
  EXPECT_LE(most, 13);  // four a worker, and the one being taken
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they map memory of their own
TEST(OrderedPipeline, FewerThreadsThanWorkersSuffice) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);
    std::ifstream pages("/proc/self/statm");
    rlim_t mapped = 0;
    pages >> mapped;
    mapped *= static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
    const rlim_t most = mapped + (rlim_t{64} << 20);  // room for the stacks of a few threads
    const rlimit limit = {most, most};
    setrlimit(RLIMIT_AS, &limit);
    int next = 0, sum = 0;
    ordered_pipeline<int, int>(
        256, [&](int& piece) { return (piece = ++next) <= 100; }, [](int piece) { return piece; },
        [&](int result) { sum += result; });
    _exit(sum == 5050 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}
#endif

TEST(OrderedPipeline, AFailureIsThrownWhenItsPieceIsDue) {
  for (const int workers : {1, 4}) {
    int next = 0;
    std::vector<int> out;
    EXPECT_EQ(harness::refusal_of([&] {
                ordered_pipeline<int, int>(
                    workers,
                    [&](int& piece) {
                      piece = next++;
                      return true;
                    },
                    [](int piece) {
                      if (piece == 5) std::this_thread::sleep_for(std::chrono::milliseconds(5));
                      if (piece == 5 || piece == 6) throw Error("piece " + std::to_string(piece));
                      return piece;
                    },
                    [&](int result) { out.push_back(result); });
              }),
              "piece 5");
    EXPECT_EQ(out, (std::vector<int>{0, 1, 2, 3, 4}));
  }
}

}  // namespace
}  // namespace metala
