#include "metala/distributed/rendezvous.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <future>
#include <vector>

#include "metala/base/error.h"
#include "metala/harness/refusal.h"

namespace metala {
namespace {

using namespace std::chrono_literals;
using Bytes = std::array<std::byte, 128>;

// A port that no other run of this test uses at the same time.
std::string master() {
  return "127.0.0.1:" + std::to_string(20000 + getpid() % 20000);
}

std::future<Bytes> rank(int rank, int size, std::chrono::milliseconds timeout, Bytes bytes = {}) {
  return std::async(std::launch::async, [=]() mutable {
    share_from_rank_0(master(), rank, size, bytes, timeout);
    return bytes;
  });
}

std::string failure(std::future<Bytes>& result) {
  return harness::refusal_of([&] { result.get(); });
}

TEST(Rendezvous, EveryRankReceivesTheBytesOfRank0WhateverTheOrderOfStart) {
  Bytes bytes;
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(3 * i);
  std::vector<std::future<Bytes>> others;
  others.push_back(rank(2, 4, 10s));
  others.push_back(rank(1, 4, 10s));
  auto first = rank(0, 4, 10s, bytes);
  others.push_back(rank(3, 4, 10s));
  EXPECT_EQ(first.get(), bytes);
  for (auto& other : others) EXPECT_EQ(other.get(), bytes);
}

TEST(Rendezvous, WhoDoesNotComeIsNamedInBoundedTime) {
  auto first = rank(0, 3, 500ms);
  auto second = rank(1, 3, 500ms);
  EXPECT_NE(failure(first).find("rank 2 of 3 did not come"), std::string::npos);
  second.wait();
  auto alone = rank(1, 3, 200ms);
  EXPECT_NE(failure(alone).find("rank 0 does not answer at 127.0.0.1:"), std::string::npos);
}

// A port whose queue is full: what comes there is dropped, as a host that is down drops it.
class DeadPort {
 public:
  DeadPort() : door_(socket(AF_INET, SOCK_STREAM, 0)) {
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address_);
    auto* const address = reinterpret_cast<sockaddr*>(&address_);
    EXPECT_EQ(bind(door_, address, length), 0);
    EXPECT_EQ(listen(door_, 0), 0);
    EXPECT_EQ(getsockname(door_, address, &length), 0);
    for (int& guest : guests_) {
      guest = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
      static_cast<void>(connect(guest, address, length));
    }
  }
  ~DeadPort() {
    for (const int guest : guests_) close(guest);
    close(door_);
  }
  std::string master() const { return "127.0.0.1:" + std::to_string(ntohs(address_.sin_port)); }

 private:
  int door_;
  sockaddr_in address_ = {};
  std::array<int, 4> guests_{};
};

TEST(Rendezvous, AHostThatDropsWhatComesIsGivenUpInBoundedTime) {
  const DeadPort port;
  Bytes bytes{};
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THROW(share_from_rank_0(port.master(), 1, 2, bytes, 300ms), Error);
  EXPECT_LT(std::chrono::steady_clock::now() - begin,
            60s);  // the system's own patience is two minutes
}

TEST(Rendezvous, RanksOfAnotherJobAreRefused) {
  auto first = rank(0, 2, 5s);
  auto stranger = rank(1, 3, 300ms);
  EXPECT_NE(failure(first).find("rank 1 was told of 3 ranks, rank 0 of 2"), std::string::npos);
  stranger.wait();
}

TEST(Rendezvous, AMasterWithoutAPortIsRefused) {
  Bytes bytes{};
  EXPECT_THROW(share_from_rank_0("", 1, 2, bytes, 1s), Error);
  EXPECT_THROW(share_from_rank_0("host", 0, 2, bytes, 1s), Error);
}

}  // namespace
}  // namespace metala
