// The ids of pieces of text that were encoded lately. Text repeats its words: of English 96 pieces
// of 100 are found here, and are spared the merges (docs/tokenizers.md has other sizes).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace metala {

// A table without collision lists: a piece takes the place of the one that was there. Holds pieces
// of up to 15 bytes that have up to 3 ids.
class PieceCache {
 public:
  static constexpr std::size_t longest = 15;
  static constexpr std::size_t most_ids = 3;

  struct Entry {
    std::uint64_t low = 0, high = 0;  // the bytes; the topmost byte is their number
    std::uint32_t count = 0;
    std::int32_t ids[most_ids] = {};
  };

  // Where `piece`, of 1 to 15 bytes, is or would be.
  Entry& place(std::string_view piece, std::uint64_t& low, std::uint64_t& high) {
    key_of(piece, low, high);
    const std::uint64_t mixed = (low ^ (high * 0x9E3779B97F4A7C15)) * 0xD6E8FEB86659FD93;
    return entries_[(mixed >> 40) & (entries_.size() - 1)];
  }

 private:
  // Any bytes of up to 15 as two words, by loads that overlap rather than a loop.
  static void key_of(std::string_view piece, std::uint64_t& low, std::uint64_t& high) {
    const char* p = piece.data();
    const std::size_t n = piece.size();
    const auto load = [](const char* from, auto word) {
      std::memcpy(&word, from, sizeof word);
      return std::uint64_t{word};
    };
    high = 0;
    if (n >= 8) {
      low = load(p, std::uint64_t{});
      if (n > 8) high = load(p + n - 8, std::uint64_t{}) >> (8 * (16 - n));
    } else if (n >= 4) {
      low = load(p, std::uint32_t{}) | load(p + n - 4, std::uint32_t{}) << (8 * (n - 4));
    } else {
      low = load(p, std::uint8_t{}) | load(p + n / 2, std::uint8_t{}) << (8 * (n / 2)) |
            load(p + n - 1, std::uint8_t{}) << (8 * (n - 1));
    }
    high |= std::uint64_t{n} << 56;
  }

  std::vector<Entry> entries_ = std::vector<Entry>(std::size_t{1} << 16);  // 2 MiB
};

// Caches of one vocabulary, lent to one thread at a time.
class PieceCaches {
 public:
  class Loan {
   public:
    explicit Loan(PieceCaches& owner) : owner_(owner), cache_(owner.take()) {}
    ~Loan() { owner_.give_back(std::move(cache_)); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    PieceCache& operator*() const { return *cache_; }

   private:
    PieceCaches& owner_;
    std::unique_ptr<PieceCache> cache_;
  };

 private:
  std::unique_ptr<PieceCache> take() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return std::make_unique<PieceCache>();
    auto cache = std::move(idle_.back());
    idle_.pop_back();
    return cache;
  }
  void give_back(std::unique_ptr<PieceCache> cache) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(cache));
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<PieceCache>> idle_;
};

// Appends the ids of `piece`: known ones, or what `encode(piece, ids)` appends, which is
// remembered.
template <class Encode>
void append_cached(PieceCache& cache, std::string_view piece, std::vector<std::int32_t>& ids,
                   Encode encode) {
  if (piece.size() > PieceCache::longest) return encode(piece, ids);
  std::uint64_t low, high;
  PieceCache::Entry& entry = cache.place(piece, low, high);
  if (entry.low != low || entry.high != high) {
    const std::size_t before = ids.size();
    encode(piece, ids);
    const std::size_t count = ids.size() - before;
    if (count > PieceCache::most_ids) return;
    entry = {low, high, static_cast<std::uint32_t>(count), {}};
    std::copy_n(ids.begin() + static_cast<std::ptrdiff_t>(before), count, entry.ids);
    return;
  }
  // One id is the rule.
  if (entry.count == 1) {
    ids.push_back(entry.ids[0]);
  } else {
    ids.insert(ids.end(), entry.ids, entry.ids + entry.count);
  }
}

}  // namespace metala
