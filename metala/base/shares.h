// Indices 0..n for threads to take one at a time: each has a share of neighbours, which it takes
// from the front, and then takes what is left of the others' shares, from the back.
//
// So a thread finds what it works on side by side in memory, asks no other thread for most of its
// indices, which costs a fraction of a microsecond where cores are far apart, and still none is
// done before all are taken.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace metala {

class Shares {
 public:
  static constexpr std::int64_t most = std::int64_t{1} << 31;  // indices

  Shares() = default;
  Shares(std::int64_t n, int threads) { deal(n, threads); }

  // At most `most` indices, dealt to at least one thread. Not while anybody takes any.
  void deal(std::int64_t n, int threads) {
    if (shares_.size() < static_cast<std::size_t>(threads)) {
      shares_ = std::vector<Share>(static_cast<std::size_t>(threads));
    }
    threads_ = threads;
    for (int t = 0; t < threads; ++t) {
      const auto begin = static_cast<std::uint64_t>(n * t / threads);
      const auto end = static_cast<std::uint64_t>(n * (t + 1) / threads);
      share(t).store(begin << 32 | end, std::memory_order_relaxed);
    }
  }

  // What a thread would take now of its own share, or -1.
  std::int64_t peek(int thread) {
    const std::uint64_t left = share(thread).load(std::memory_order_relaxed);
    return begin(left) < end(left) ? begin(left) : -1;
  }

  // The next index for one of the threads, or -1 when all are taken.
  std::int64_t take(int thread) {
    for (int i = 0; i < threads_; ++i) {
      const int of = thread + i < threads_ ? thread + i : thread + i - threads_;
      std::uint64_t left = share(of).load(std::memory_order_relaxed);
      while (begin(left) < end(left)) {
        const std::uint64_t then = i == 0 ? left + (std::uint64_t{1} << 32) : left - 1;
        if (share(of).compare_exchange_weak(left, then, std::memory_order_relaxed)) {
          return i == 0 ? begin(left) : end(left) - 1;
        }
      }
    }
    return -1;
  }

 private:
  static std::int64_t begin(std::uint64_t left) { return static_cast<std::int64_t>(left >> 32); }
  static std::int64_t end(std::uint64_t left) {
    return static_cast<std::int64_t>(left & 0xffffffff);
  }
  // What is left of a share, first and end as halves of a word, in a cache line of its own.
  struct alignas(64) Share {
    std::atomic<std::uint64_t> left{0};
  };
  std::atomic<std::uint64_t>& share(int thread) {
    return shares_[static_cast<std::size_t>(thread)].left;
  }

  int threads_ = 0;
  std::vector<Share> shares_;
};

}  // namespace metala
