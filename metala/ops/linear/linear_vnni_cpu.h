// W in blocks on x86 processors whose AVX-512 multiplies and adds integers in one instruction
// (VNNI). The forms that they stand in for, compiled for every processor: linear_quantized.cpp and
// linear_blocked.cpp.
#pragma once

#include "metala/ops/linear/linear_blocks_cpu.h"

namespace metala::linear::cpu::vnni {

bool available();
void set_available(bool);  // for tests: false leaves the work to the other forms

// Rows of x for q4 weights: 16-bit integers as 256 high + low, both signed bytes, in the order in
// which the weights of a pair of groups come out of their bytes; and 8 times each group's sum,
// which is what weights taken as w + 8 count too much.
struct BytePlanes {
  Tensor high, low;  // [rows, in] of bytes
  Tensor eights;     // [rows, in / 32]
  const float* steps;
};
BytePlanes planes_of(const RoundedRows& x);

// As stream_integers, for q4 weights.
void stream_q4(const WeightRows&, const BytePlanes& x, const Results&);

// Many rows of x: panels of `lanes` rows. For each group of 32 columns 16 words of four columns
// each, their high bytes and then their low ones by turns, and a word of the group's sum, negative.
constexpr std::size_t lanes = 16;
constexpr std::size_t words_of(std::size_t columns) {
  return columns / quantized::group * 17;
}

// The first `columns` columns of `count` rows of x, at most `lanes`; zero past `count`.
void lay_out(const std::int16_t* rows, std::size_t stride, std::size_t count, std::size_t columns,
             std::int32_t* to);

// As its portable form, for these panels.
void block_of_integers(const WeightRows&, const WeightRows& next, const Panels& x, float* sums);

}  // namespace metala::linear::cpu::vnni
