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

// Rows of x in panels, [count][depth][lanes] 32-bit words: as linear_blocked.cpp, linear_floats.cpp
// or linear_vnni_blocked.cpp want them.
struct Panels {
  const std::int32_t* words;
  std::size_t count, depth, lanes;
  const std::int32_t* at(std::size_t panel, std::size_t k) const {
    return words + (panel * depth + k) * lanes;
  }
};

// x is rounded and laid out in parts of so many columns of a panel.
constexpr std::size_t part_columns = 256;
constexpr std::size_t part_groups = part_columns / quantized::group;

// Rows of such a part in bytes, up to two vectors' of the longest that there are.
struct RoundedPart {
  static constexpr std::size_t most_rows = 128;
  alignas(64) std::int8_t bytes[most_rows][part_columns];
  float steps[most_rows][part_groups];
};

// Of each lane of x in bytes, for the form that every processor has: pairs of columns as 16-bit
// integers and after those of a group its step.
constexpr std::size_t words_of(std::size_t columns) {
  return columns / quantized::group * (quantized::group / 2 + 1);
}

// Floats meet x in panels of so many rows.
constexpr std::size_t panel_rows = 4;

// Of a row of W, without its scales; for types in blocks whole pairs of groups.
constexpr std::size_t bytes_of_columns(DType type, std::size_t n) {
  return type == DType::q4 ? n / 2 : type == DType::q8 ? n : type == DType::f32 ? 4 * n : 2 * n;
}

// The block of W after the one that is worked on, on its way into the cache meanwhile. Its lines
// are fetched in the order of memory: then the hardware prefetchers join in (README, "Ladder").
class Ahead {
 public:
  Ahead(const WeightRows& next, std::size_t steps)
      : at_(next.first), end_(next.first + next.count * next.row_bytes) {
    const auto lines = (next.count * next.row_bytes + 63) / 64;
    lines_of_step_ = steps == 0 ? 0 : (lines + steps - 1) / steps;
  }
  void step() {
    for (std::size_t l = 0; l < lines_of_step_ && at_ < end_; ++l, at_ += 64) {
      __builtin_prefetch(at_);
    }
  }

 private:
  const std::byte *at_, *end_;
  std::size_t lines_of_step_;
};

// The lanes of a vector of floats, and the first `columns` columns of `count` rows of x, at most
// panel_rows, for block_of_floats: zero to a whole pair of vectors and past `count`. Weights in
// bf16 want another order than the others.
std::size_t float_lanes();
void lay_out_floats(const float* x, std::size_t stride, std::size_t count, std::size_t columns,
                    bool of_bf16, float* to);

// Of integers: lanes of a panel for so many rows of x, the first `groups` groups of `count` rows of
// x, zero past `count`, and as block_of_floats.
std::size_t integer_lanes(std::size_t rows);
void lay_out_integers(const RoundedPart& x, std::size_t count, std::size_t groups,
                      std::size_t lanes, std::int32_t* to);
void block_of_integers(const WeightRows&, const WeightRows& next, const Panels& x, float* sums);

// sums[n][o] = w[o] . x[n] in rows of block_rows, while what is `next` is fetched into the cache.
void block_of_floats(const WeightRows& w, const WeightRows& next, const Panels& x, float* sums);

// The sums of `count` rows of W with `rows` rows of x from `first` on, to where results go.
void put_sums(const Results& to, std::size_t first, std::size_t rows, std::size_t count,
              const float* sums);

}  // namespace metala::linear::cpu
