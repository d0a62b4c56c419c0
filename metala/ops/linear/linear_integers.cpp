// W in blocks of integers meets many rows of x, on every processor.
//
// The lanes of a vector are rows of x, which is laid out anew for it: panels of `lanes` rows, one
// pair of columns after another, in 16-bit integers, and after the 16 pairs of a group its steps.
// So a pair of weights is broadcast and meets all rows of a panel in one multiply-add, and a tile
// of sums, some rows of W by one or two vectors of rows of x, stays in registers. What a group of
// 32 adds up to becomes a float once.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/linear/linear_integers.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "metala/ops/linear/linear_blocks_cpu.h"
#include "metala/ops/linear/linear_weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metala::linear::cpu::HWY_NAMESPACE {

using FloatWords = hn::RebindToSigned<Floats>;
using FloatWord = hn::Vec<FloatWords>;

constexpr std::size_t block_depth = 256;  // columns unpacked at a time: 16 KiB of a block

// Registers for sums: 16 of 32, or 8 of 16.
constexpr std::size_t sums_in_registers = HWY_LANES(float) >= 16 || HWY_ARCH_ARM_A64 ? 16 : 8;

std::size_t integer_lanes(std::size_t rows) {
  const std::size_t width = hn::Lanes(Floats());
  return rows <= width ? width : 2 * width;
}

// The first `groups` groups of `count` rows of x, zero past `count`.
void lay_out_integers(const RoundedPart& x, std::size_t count, std::size_t groups,
                      std::size_t lanes, std::int32_t* to) {
  const FloatWords d;
  const std::size_t width = hn::Lanes(d);
  for (std::size_t l = 0; l < lanes; l += width) {
    const std::size_t live = l < count ? std::min(width, count - l) : 0;
    const std::size_t at = live == 0 ? 0 : l;
    const auto mask = hn::FirstN(d, live);
    const auto lane = hn::IfThenElseZero(mask, hn::Iota(d, 0));
    // A word for each lane, those of one row lying `stride` from those of the next.
    const auto column = [&](const void* from, std::size_t stride) HWY_ATTR {
      const auto index = hn::Mul(lane, hn::Set(d, static_cast<std::int32_t>(stride)));
      const auto* words = static_cast<const std::int32_t*>(from);
      return hn::IfThenElseZero(mask, hn::GatherIndex(d, words, index));
    };
    std::int32_t* out = to + l;
    for (std::size_t g = 0; g < groups; ++g) {
      const std::int8_t* bytes = x.bytes[at] + g * group;
      for (std::size_t k = 0; k < group; k += 4, out += 2 * lanes) {
        const auto four = column(bytes + k, part_columns / 4);
        const auto byte = [&](int i) HWY_ATTR {  // as the lower half of a word
          return hn::ShiftRight<24>(hn::ShiftLeftSame(four, 24 - 8 * i));
        };
        const auto two = [&](int i) HWY_ATTR {
          const auto low = hn::And(byte(i), hn::Set(d, 0xffff));
          return hn::Or(low, hn::ShiftLeft<16>(byte(i + 1)));
        };
        hn::StoreU(two(0), d, out);
        hn::StoreU(two(2), d, out + lanes);
      }
      hn::StoreU(column(x.steps[at] + g, part_groups), d, out);
      out += lanes;
    }
  }
}

// Zeros for the rows that a block of `count` rows of W lacks to whole tiles of `rows`.
template <std::size_t rows, class T>
void fill_up(std::size_t count, std::size_t row_length, T* block) {
  static_assert(block_rows % rows == 0);
  const std::size_t whole = (count + rows - 1) / rows * rows;
  std::fill_n(block + count * row_length, (whole - count) * row_length, T{0});
}

// Adds the products of pairs of 16-bit integers, to be taken together by `sum_of_pairs`.
HWY_INLINE FloatWord add_pairs(FloatWord a, FloatWord b, FloatWord even, FloatWord& odd) {
#if HWY_TARGET == HWY_SCALAR
  const std::int32_t x = hn::GetLane(a), y = hn::GetLane(b);
  const std::int32_t low = static_cast<std::int16_t>(x) * static_cast<std::int16_t>(y);
  odd = hn::Zero(FloatWords());
  return hn::Set(FloatWords(), hn::GetLane(even) + low + (x >> 16) * (y >> 16));
#else
  const hn::Repartition<std::int16_t, FloatWords> shorts;
  return hn::ReorderWidenMulAccumulate(FloatWords(), hn::BitCast(shorts, a), hn::BitCast(shorts, b),
                                       even, odd);
#endif
}

HWY_INLINE Float sum_of_pairs(FloatWord even, FloatWord odd) {
#if HWY_TARGET == HWY_SCALAR
  return hn::ConvertTo(Floats(), hn::Add(even, odd));
#else
  return hn::ConvertTo(Floats(), hn::RearrangeToOddPlusEven(even, odd));
#endif
}

// sums[r][lane] (+)= sum_k w[r][k] x[k][lane] for a tile of rows: words are pairs of columns, each
// group's sum is multiplied by scales[r][group] and the lane's step.
template <std::size_t rows, std::size_t vectors>
HWY_INLINE void add_packed_tile(const std::int16_t* w, const float* scales, const std::int32_t* x,
                                std::size_t depth, Ahead* ahead, bool first, float* sums,
                                std::size_t stride) {
  const Floats d;
  const FloatWords dw;
  const std::size_t width = hn::Lanes(d);
  Float tile[rows][vectors];
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t v = 0; v < vectors; ++v) tile[r][v] = hn::Zero(d);
  }
  const std::size_t groups = depth / group;
  for (std::size_t g = 0; g < groups; ++g) {
    if (ahead != nullptr) ahead->step();
    FloatWord even[rows][vectors], odd[rows][vectors];
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t v = 0; v < vectors; ++v) even[r][v] = odd[r][v] = hn::Zero(dw);
    }
    // Left rolled, GCC 12 copies every sum at every step; rolled out, it spills.
#pragma GCC unroll 4
    for (std::size_t k = 0; k < group / 2; ++k, x += vectors * width) {
      FloatWord column[vectors];
      for (std::size_t v = 0; v < vectors; ++v) column[v] = hn::LoadU(dw, x + v * width);
      for (std::size_t r = 0; r < rows; ++r) {
        std::int32_t two;
        std::memcpy(&two, w + r * block_depth + g * group + 2 * k, sizeof(two));
        const auto weights = hn::Set(dw, two);
        for (std::size_t v = 0; v < vectors; ++v) {
          even[r][v] = add_pairs(weights, column[v], even[r][v], odd[r][v]);
        }
      }
    }
    Float step[vectors];
    for (std::size_t v = 0; v < vectors; ++v) {
      step[v] = hn::LoadU(d, reinterpret_cast<const float*>(x) + v * width);
    }
    for (std::size_t r = 0; r < rows; ++r) {
      const auto scale = hn::Set(d, scales[r * (block_depth / group) + g]);
      for (std::size_t v = 0; v < vectors; ++v) {
        tile[r][v] =
            hn::MulAdd(sum_of_pairs(even[r][v], odd[r][v]), hn::Mul(scale, step[v]), tile[r][v]);
      }
    }
    x += vectors * width;
  }
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t v = 0; v < vectors; ++v) {
      float* to = sums + r * stride + v * width;
      hn::StoreU(first ? tile[r][v] : hn::Add(tile[r][v], hn::LoadU(d, to)), d, to);
    }
  }
}

// to[n][o] = from[o][n] for n < `count` and the `rows` rows o of a block.
void transpose(const float* from, std::size_t stride, std::size_t rows, std::size_t count,
               float* to) {
#if HWY_TARGET != HWY_SCALAR
  const hn::CappedTag<float, 4> d;
  const hn::Repartition<double, decltype(d)> pairs;
  for (std::size_t o = 0; o < rows; o += 4) {
    for (std::size_t n = 0; n < count; n += 4) {
      const float* at = from + o * stride + n;
      const auto r0 = hn::LoadU(d, at), r1 = hn::LoadU(d, at + stride);
      const auto r2 = hn::LoadU(d, at + 2 * stride), r3 = hn::LoadU(d, at + 3 * stride);
      const auto low01 = hn::BitCast(pairs, hn::InterleaveLower(d, r0, r1));
      const auto low23 = hn::BitCast(pairs, hn::InterleaveLower(d, r2, r3));
      const auto high01 = hn::BitCast(pairs, hn::InterleaveUpper(d, r0, r1));
      const auto high23 = hn::BitCast(pairs, hn::InterleaveUpper(d, r2, r3));
      float* out = to + n * block_rows + o;
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, low01, low23)), d, out);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, low01, low23)), d, out + block_rows);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, high01, high23)), d,
                 out + 2 * block_rows);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, high01, high23)), d,
                 out + 3 * block_rows);
    }
  }
#else
  for (std::size_t n = 0; n < count; ++n) {
    for (std::size_t o = 0; o < rows; ++o) to[n * block_rows + o] = from[o * stride + n];
  }
#endif
}

template <std::size_t vectors>
void packed_sums(const WeightRows& w, const WeightRows& next, const Panels& x, float* to) {
  constexpr std::size_t rows = sums_in_registers / 2 / vectors;
  constexpr std::size_t groups = block_depth / group;
  HWY_ALIGN std::int16_t block[block_rows * block_depth];
  HWY_ALIGN float scales[block_rows * groups], sums[block_rows * block_lanes];
  fill_up<rows>(w.count, block_depth, block);
  fill_up<rows>(w.count, groups, scales);
  const std::size_t stride = x.count * x.lanes;
  Ahead ahead(next, (w.count + rows - 1) / rows * (w.in / group));
  for (std::size_t k = 0; k < w.in; k += block_depth) {
    const std::size_t depth = std::min(block_depth, w.in - k);
    for (std::size_t r = 0; r < w.count; ++r) {
      const PackedRow row = packed_row(w.row(r), w.in);
      widen_scales(row, k / group, depth / group, scales + r * groups);
      w.type == DType::q8 ? unpack_integers<Unpack8>(row, k / pair, depth, block + r * block_depth)
                          : unpack_integers<Unpack4>(row, k / pair, depth, block + r * block_depth);
    }
    for (std::size_t p = 0; p < x.count; ++p) {
      for (std::size_t r = 0; r < w.count; r += rows) {
        add_packed_tile<rows, vectors>(block + r * block_depth, scales + r * groups,
                                       x.at(p, words_of(k)), depth, p == 0 ? &ahead : nullptr,
                                       k == 0, sums + r * stride + p * x.lanes, stride);
      }
    }
  }
  transpose(sums, stride, w.count, stride, to);
}

void block_of_integers(const WeightRows& w, const WeightRows& next, const Panels& x, float* sums) {
  if (x.lanes == hn::Lanes(Floats())) return packed_sums<1>(w, next, x, sums);
  packed_sums<2>(w, next, x, sums);
}

}  // namespace metala::linear::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::linear::cpu {
HWY_EXPORT(integer_lanes);
HWY_EXPORT(lay_out_integers);
HWY_EXPORT(block_of_integers);

std::size_t integer_lanes(std::size_t rows) {
  return HWY_DYNAMIC_DISPATCH(integer_lanes)(rows);
}

void lay_out_integers(const RoundedPart& x, std::size_t count, std::size_t groups,
                      std::size_t lanes, std::int32_t* to) {
  HWY_DYNAMIC_DISPATCH(lay_out_integers)(x, count, groups, lanes, to);
}

void block_of_integers(const WeightRows& w, const WeightRows& next, const Panels& x, float* sums) {
  HWY_DYNAMIC_DISPATCH(block_of_integers)(w, next, x, sums);
}

}  // namespace metala::linear::cpu
#endif
