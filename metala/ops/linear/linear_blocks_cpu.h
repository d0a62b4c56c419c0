// How W and x meet in blocks (linear_blocked.cpp).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "metala/base/quantized.h"
#include "metala/ops/linear/linear_cpu.h"

namespace metala::linear::cpu {

// 64 KiB of widened weights and as much of sums: both stay in the second-level cache of a core.
constexpr std::size_t block_rows = 64;    // of W
constexpr std::size_t tile_rows = 16;     // of a block that are worked on at a time, at most
constexpr std::size_t block_depth = 256;  // columns widened at a time; whole pairs of groups
constexpr std::size_t block_lanes = 256;  // rows of x at a time

// Rows of x in panels [count][words][lanes] of floats, or of pairs of 16-bit integers.
struct Panels {
  const std::int32_t* words;
  std::size_t count, depth, lanes;
  const std::int32_t* at(std::size_t panel, std::size_t k) const {
    return words + (panel * depth + k) * lanes;
  }
};

// Zeros for the rows that a block of `count` rows of W lacks to whole tiles of `rows`.
template <std::size_t rows, class T>
void fill_up(std::size_t count, std::size_t row_length, T* block) {
  static_assert(tile_rows % rows == 0);
  const std::size_t whole = (count + rows - 1) / rows * rows;
  std::fill_n(block + count * row_length, (whole - count) * row_length, T{0});
}

// What a tile of rows of W will be made of next: fetched into the cache, a line at a time, while
// this one is worked on.
struct Ahead {
  const std::byte* first = nullptr;
  std::size_t row_bytes = 0;
  std::size_t lines = 0;  // of 64 bytes, of each row
  template <std::size_t rows>
  void fetch(std::size_t i) const {
    if (i < rows * lines) __builtin_prefetch(first + i % rows * row_bytes + i / rows * 64);
  }
};

// After columns [k, k + block_depth) of the rows from r on come their next columns, and after the
// last the first ones of the block of rows that follows.
inline Ahead ahead_of(const WeightRows& w, std::size_t r, std::size_t k) {
  const auto bytes_of_columns = [&](std::size_t n) {
    if (w.type == DType::q8) return n;
    if (w.type == DType::q4) return n / 2;
    return bytes_of(w.type, n);
  };
  const std::size_t scales = in_blocks(w.type) ? w.in / quantized::group * 2 : 0;
  const bool last = k + block_depth >= w.in;
  const std::size_t from = last ? 0 : k + block_depth;
  const std::size_t depth = std::min(block_depth, w.in - from);
  const std::size_t begin = last ? 0 : scales + bytes_of_columns(from);
  const std::size_t end = scales + bytes_of_columns(from + depth);
  return {w.row(r + (last ? block_rows : 0)) + begin, w.row_bytes, (end - begin + 63) / 64};
}

}  // namespace metala::linear::cpu
