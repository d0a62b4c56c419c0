// Byte-pair encoding: the merges of a vocabulary, and applying them to a piece of text.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace metala {

class Merges {
 public:
  // Room for about `count` merges.
  explicit Merges(std::size_t count);

  // `left` and `right`, side by side, become `result`; lower ranks go first. A pair that is added
  // again takes the new rank. Ids are at least 0.
  void add(std::int32_t left, std::int32_t right, std::uint32_t rank, std::int32_t result);

  // Replaces the adjacent pair of the lowest rank, the leftmost of several, until none merges.
  // O(n log n) in the number of symbols.
  void apply(std::vector<std::int32_t>& symbols) const;

 private:
  struct Slot {
    std::uint64_t pair;
    std::uint32_t rank;
    std::int32_t result;
  };
  static constexpr std::uint64_t empty = ~std::uint64_t{0};
  static constexpr std::uint32_t never = ~std::uint32_t{0};
  struct Merge {
    std::uint32_t rank = never;
    std::int32_t result = -1;
  };

  Slot& slot(std::uint64_t pair);
  Merge find(std::int32_t left, std::int32_t right) const;
  void grow();
  void apply_to_few(std::vector<std::int32_t>& symbols) const;
  void apply_to_many(std::vector<std::int32_t>& symbols) const;

  std::vector<Slot> slots_;  // open addressing, a power of two, at most half full
  std::size_t used_ = 0;
};

}  // namespace metala
