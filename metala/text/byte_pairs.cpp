#include "metala/text/byte_pairs.h"

#include <algorithm>
#include <array>
#include <bit>
#include <queue>
#include <utility>

namespace metala {
namespace {

// Up to so many symbols a scan for the lowest rank beats a heap.
constexpr std::size_t few = 64;

std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32) |
         static_cast<std::uint32_t>(right);
}

std::size_t hash(std::uint64_t pair) {
  const std::uint64_t mixed = pair * 0x9E3779B97F4A7C15;
  return static_cast<std::size_t>(mixed ^ (mixed >> 32));
}

}  // namespace

Merges::Merges(std::size_t count)
    : slots_(std::bit_ceil(std::max<std::size_t>(2 * count, 16)), Slot{empty, never, -1}) {}

Merges::Slot& Merges::slot(std::uint64_t pair) {
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = hash(pair) & mask;
  while (slots_[at].pair != pair && slots_[at].pair != empty) at = (at + 1) & mask;
  return slots_[at];
}

void Merges::add(std::int32_t left, std::int32_t right, std::uint32_t rank, std::int32_t result) {
  if (2 * (used_ + 1) > slots_.size()) grow();
  Slot& s = slot(pair_of(left, right));
  if (s.pair == empty) ++used_;
  s = {pair_of(left, right), rank, result};
}

void Merges::grow() {
  std::vector<Slot> old(2 * slots_.size(), Slot{empty, never, -1});
  old.swap(slots_);
  for (const Slot& s : old) {
    if (s.pair != empty) slot(s.pair) = s;
  }
}

Merges::Merge Merges::find(std::int32_t left, std::int32_t right) const {
  const std::size_t mask = slots_.size() - 1;
  const std::uint64_t pair = pair_of(left, right);
  for (std::size_t at = hash(pair) & mask;; at = (at + 1) & mask) {
    const Slot& s = slots_[at];
    if (s.pair == pair) return {s.rank, s.result};
    if (s.pair == empty) return {};
  }
}

void Merges::apply(std::vector<std::int32_t>& symbols) const {
  if (symbols.size() < 2) return;
  if (symbols.size() <= few) {
    apply_to_few(symbols);
  } else {
    apply_to_many(symbols);
  }
}

void Merges::apply_to_few(std::vector<std::int32_t>& symbols) const {
  std::array<Merge, few> merges;  // [i]: of the symbols i and i + 1
  std::size_t count = symbols.size();
  for (std::size_t i = 0; i + 1 < count; ++i) merges[i] = find(symbols[i], symbols[i + 1]);
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == never) break;
    symbols[best] = merges[best].result;
    for (std::size_t i = best + 1; i + 1 < count; ++i) {
      symbols[i] = symbols[i + 1];
      merges[i] = merges[i + 1];
    }
    --count;
    if (best > 0) merges[best - 1] = find(symbols[best - 1], symbols[best]);
    if (best + 1 < count) merges[best] = find(symbols[best], symbols[best + 1]);
  }
  symbols.resize(count);
}

// Symbols in a doubly linked list, pairs in a heap by (rank, position). A pair that has changed
// since it was pushed has another rank, or none, and is passed over.
void Merges::apply_to_many(std::vector<std::int32_t>& symbols) const {
  struct Node {
    std::size_t before, after;
    Merge merge;  // with the next symbol
  };
  const std::size_t count = symbols.size();
  std::vector<Node> nodes(count);
  using Entry = std::pair<std::uint32_t, std::size_t>;
  std::vector<Entry> entries;
  for (std::size_t i = 0; i < count; ++i) {
    nodes[i] = {i - 1, i + 1, {}};
    if (i + 1 == count) break;
    nodes[i].merge = find(symbols[i], symbols[i + 1]);
    if (nodes[i].merge.rank != never) entries.emplace_back(nodes[i].merge.rank, i);
  }
  std::priority_queue heap(std::greater<Entry>(), std::move(entries));
  const auto look_up = [&](std::size_t i) {
    const std::size_t next = nodes[i].after;
    nodes[i].merge = next < count ? find(symbols[i], symbols[next]) : Merge{};
    if (nodes[i].merge.rank != never) heap.emplace(nodes[i].merge.rank, i);
  };
  while (!heap.empty()) {
    const auto [rank, i] = heap.top();
    heap.pop();
    if (nodes[i].merge.rank != rank) continue;
    const std::size_t gone = nodes[i].after;
    symbols[i] = nodes[i].merge.result;
    symbols[gone] = -1;
    nodes[gone].merge = {};
    nodes[i].after = nodes[gone].after;
    if (nodes[i].after < count) nodes[nodes[i].after].before = i;
    look_up(i);
    if (i > 0) look_up(nodes[i].before);
  }
  std::erase(symbols, -1);
}

}  // namespace metala
