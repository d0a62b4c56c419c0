#include "metala/distributed/rendezvous.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <future>
#include <vector>

#include "metala/base/error.h"

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
  try {
    result.get();
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing was thrown";
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
