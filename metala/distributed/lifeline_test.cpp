#include "metala/distributed/lifeline.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <memory>

namespace metala {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// Ranks 1 and 2 of three are processes of their own, which only hold their lines; rank 0 is here.
class Lines : public testing::Test {
 protected:
  void SetUp() override {
    std::array<int, 2> knows{};
    ASSERT_EQ(pipe(knows.data()), 0);
    std::array<std::array<int, 2>, 2> pairs{};
    for (auto& pair : pairs) {
      ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
    }
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      ranks_[i] = fork();
      if (ranks_[i] != 0) continue;
      for (std::size_t j = 0; j < pairs.size(); ++j) {
        close(pairs[j][0]);
        if (j != i) close(pairs[j][1]);
      }
      // Says so once it knows of the death, and stays: its own leaving is not what is looked at.
      const auto line =
          std::make_unique<Lifeline>(static_cast<int>(i) + 1, 3, std::vector{pairs[i][1]});
      for (const auto until = Clock::now() + 20s; Clock::now() < until; usleep(1000)) {
        if (line->lost() != "rank 2 has died") continue;
        if (write(knows[1], "!", 1) == 1) pause();
      }
      _exit(1);
    }
    close(knows[1]);
    knows_ = knows[0];
    for (const auto& pair : pairs) close(pair[1]);
    line_ = std::make_unique<Lifeline>(0, 3, std::vector<int>{pairs[0][0], pairs[1][0]});
  }
  void TearDown() override {
    for (const pid_t rank : ranks_) {
      kill(rank, SIGKILL);
      waitpid(rank, nullptr, 0);
    }
    close(knows_);
  }
  std::string lost_soon() const {
    for (const auto until = Clock::now() + 10s; Clock::now() < until; usleep(1000)) {
      if (!line_->lost().empty()) return line_->lost();
    }
    return "nobody";
  }
  // Whether rank 1 comes to know, too.
  bool known_to_the_other() const {
    char word = 0;
    return read(knows_, &word, 1) == 1;
  }

  std::array<pid_t, 2> ranks_{};
  int knows_ = -1;
  std::unique_ptr<Lifeline> line_;
};

TEST_F(Lines, ARankThatIsKilledIsKnownToAllAtOnce) {
  EXPECT_EQ(line_->lost(), "");
  kill(ranks_[1], SIGKILL);
  EXPECT_EQ(lost_soon(), "rank 2 has died");
  EXPECT_EQ(line_->missing(1s), "rank 2 has died");
  EXPECT_TRUE(known_to_the_other());
}

TEST_F(Lines, ARankThatIsStoppedIsNamedWhenAllAreAsked) {
  EXPECT_EQ(line_->missing(10s), "");
  kill(ranks_[0], SIGSTOP);
  ASSERT_EQ(waitpid(ranks_[0], nullptr, WUNTRACED), ranks_[0]);  // it has stopped by now
  EXPECT_EQ(line_->missing(300ms), "rank 1 does not answer; it hangs or was stopped");
  EXPECT_EQ(line_->lost(), "");
  kill(ranks_[0], SIGCONT);
  EXPECT_EQ(line_->missing(10s), "");
}

TEST(Lifeline, AnotherRankAsksByWayOfRank0) {
  std::array<int, 2> pair{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
  auto first = std::make_unique<Lifeline>(0, 2, std::vector<int>{pair[0]});
  Lifeline second(1, 2, {pair[1]});
  EXPECT_EQ(second.missing(10s), "");
  first.reset();  // in order
  usleep(100000);
  EXPECT_EQ(second.lost(), "");
  EXPECT_EQ(second.missing(100ms), "rank 0 does not answer; it hangs or was stopped");
}

TEST(Lifeline, Rank0IsMissedToo) {
  std::array<int, 2> pair{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()), 0);
  const Lifeline second(1, 2, {pair[1]});
  close(pair[0]);
  for (const auto until = Clock::now() + 10s; Clock::now() < until && second.lost().empty();) {
    usleep(1000);
  }
  EXPECT_EQ(second.lost(), "rank 0 has died");
}

}  // namespace
}  // namespace metala
