// W in blocks on x86 processors whose AVX-512 multiplies and adds bytes in one instruction (VNNI),
// unsigned with signed: weights count as w + 8 (q4) or w + 128 (q8), and sums begin with what that
// adds too much taken away, which x alone tells. The forms that they stand in for, compiled for
// every processor: linear_quantized.cpp and linear_blocked.cpp.
#pragma once

#include "metala/ops/linear/linear_blocks_cpu.h"

namespace metala::linear::cpu::vnni {

bool available();
void set_available(bool);  // for tests: false leaves the work to the other forms

// Rows of x for weights of one type in blocks.
struct StreamedRows {
  Tensor bytes;  // [rows, in]; those of q4 in the order in which weights come out of their bytes
  Tensor begin;  // i32 [rows, in / 4]: where the sum of four products begins
  const float* steps;  // [rows, in / 32]
};
StreamedRows streamed(const RoundedRows& x, DType type);

// As stream_integers, for weights of that type.
void stream(const WeightRows&, const StreamedRows& x, const Results&);

// Many rows of x: panels of `lane_rows` rows, each in two neighbouring lanes. For each group of 32
// columns a word of four columns eight times, one of the group's sum, negative, and one of its
// step.
constexpr std::size_t lane_rows = 8;
constexpr std::size_t lanes = 2 * lane_rows;
constexpr std::size_t words_of(std::size_t columns) {
  return columns / quantized::group * 10;
}

// The first `groups` groups of `count` rows of x, at most lane_rows; zero past `count`.
void lay_out(const RoundedPart& x, std::size_t count, std::size_t groups, std::int32_t* to);

// As its portable form, for these panels.
void block_of_integers(const WeightRows&, const WeightRows& next, const Panels& x, float* sums);

}  // namespace metala::linear::cpu::vnni
