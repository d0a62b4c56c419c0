// How W and x meet in blocks (linear_blocked.cpp).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "metala/base/quantized.h"
#include "metala/ops/linear/linear_cpu.h"

namespace metala::linear::cpu {

constexpr std::size_t block_rows = 32;    // of W: what a thread takes at a time
constexpr std::size_t block_lanes = 256;  // rows of x at a time; their sums stay in the cache

// Rows of x in panels of `lanes` rows, [count][depth][lanes] 32-bit words: pairs of 16-bit
// integers, or as linear_floats.cpp or linear_vnni_blocked.cpp want them.
struct Panels {
  const std::int32_t* words;
  std::size_t count, depth, lanes;
  const std::int32_t* at(std::size_t panel, std::size_t k) const {
    return words + (panel * depth + k) * lanes;
  }
};

// Floats meet x in panels of so many rows.
constexpr std::size_t panel_rows = 4;

// Of a row of W, without its scales; for types in blocks whole pairs of groups.
constexpr std::size_t bytes_of_columns(DType type, std::size_t n) {
  return type == DType::q4 ? n / 2 : type == DType::q8 ? n : type == DType::f32 ? 4 * n : 2 * n;
}

// What a tile of rows of W will be made of next: fetched into the cache, a row at a time, while
// this one is worked on.
struct Ahead {
  const std::byte* first = nullptr;
  std::size_t row_bytes = 0;
  std::size_t lines = 0;  // of 64 bytes, of each row
  void fetch(std::size_t row) const {
    for (std::size_t l = 0; l < lines; ++l) __builtin_prefetch(first + row * row_bytes + 64 * l);
  }
};

// After columns [k, k + depth) of the rows from r on come those `rows` further on, or where there
// are no more the next columns of the first rows, and at the end the first of the block that is
// `next`.
inline Ahead ahead_of(const WeightRows& w, const WeightRows& next, std::size_t rows,
                      std::size_t depth, std::size_t r, std::size_t k) {
  const bool last_rows = r + rows >= w.count;
  const bool last = last_rows && k + depth >= w.in;
  const WeightRows& of = last ? next : w;
  if (of.count == 0) return {};
  const std::size_t from = last ? 0 : last_rows ? k + depth : k;
  const std::size_t to = std::min(from + depth, of.in);
  const std::size_t scales = in_blocks(of.type) ? of.in / quantized::group * 2 : 0;
  const std::size_t begin = from == 0 ? 0 : scales + bytes_of_columns(of.type, from);
  const std::size_t end = scales + bytes_of_columns(of.type, to);
  return {of.row(last_rows ? 0 : r + rows) + begin, of.row_bytes, (end - begin + 63) / 64};
}

// The lanes of a vector of floats, and the first `columns` columns of `count` rows of x, at most
// panel_rows, for block_of_floats: zero to a whole pair of vectors and past `count`. Weights in
// bf16 want another order than the others.
std::size_t float_lanes();
void lay_out_floats(const float* x, std::size_t stride, std::size_t count, std::size_t columns,
                    bool of_bf16, float* to);

// sums[n][o] = w[o] . x[n] in rows of block_rows, while what is `next` is fetched into the cache.
void block_of_floats(const WeightRows& w, const WeightRows& next, const Panels& x, float* sums);

}  // namespace metala::linear::cpu
