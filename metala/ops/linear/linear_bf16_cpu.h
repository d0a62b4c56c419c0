// W in bf16 and more than a few rows of x on x86 processors whose AVX-512 multiplies and adds pairs
// of bf16 in one instruction. The form that it stands in for, compiled for every processor:
// linear_floats.cpp.
#pragma once

#include "metala/ops/linear/linear_blocks_cpu.h"

namespace metala::linear::cpu::pairs_of_bf16 {

bool available();
void set_available(bool);  // for tests: false leaves the work to the other form

// Rows of x in panels of `lane_rows`, each in two neighbouring lanes: words of two columns, up to
// whole multiples of `unit` columns.
constexpr std::size_t lane_rows = 8;
constexpr std::size_t lanes = 2 * lane_rows;
constexpr std::size_t unit = 32;

// `columns` columns of `count` rows of x, at most lane_rows, already rounded to bf16; zero beyond
// both.
void lay_out(const float* x, std::size_t stride, std::size_t count, std::size_t columns,
             std::int32_t* to);

// As block_of_floats, for these panels.
void block_of_bf16(const WeightRows&, const WeightRows& next, const Panels& x, float* sums);

}  // namespace metala::linear::cpu::pairs_of_bf16
