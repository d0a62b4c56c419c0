// Linear maps of more than a few rows: a block of rows of W at a time meets all rows of x. Here the
// blocks are handed out, and weights in blocks of integers are multiplied as on every processor;
// floats in linear_floats.cpp.
//
// The lanes of a vector are rows of x, which is laid out anew for it: panels of `lanes` rows, one
// pair of columns after another, in 16-bit integers, and after the 16 pairs of a group its steps.
// So a pair of weights is broadcast and meets all rows of a panel in one multiply-add, and a tile
// of sums, some rows of W by one or two vectors of rows of x, stays in registers. What a group of
// 32 adds up to becomes a float once.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/linear/linear_blocked.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <vector>

#include "metala/base/profile.h"
#include "metala/base/threads.h"
#include "metala/ops/linear/linear_bf16_cpu.h"
#include "metala/ops/linear/linear_blocks_cpu.h"
#include "metala/ops/linear/linear_cpu.h"
#include "metala/ops/linear/linear_vnni_cpu.h"
#include "metala/ops/linear/linear_weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metala::linear::cpu::HWY_NAMESPACE {

using FloatWords = hn::RebindToSigned<Floats>;
using FloatWord = hn::Vec<FloatWords>;

constexpr std::size_t block_depth = 256;  // columns unpacked at a time: 16 KiB of a block

// Registers for sums: 16 of 32, or 8 of 16.
constexpr std::size_t sums_in_registers = HWY_LANES(float) >= 16 || HWY_ARCH_ARM_A64 ? 16 : 8;

std::size_t vector_lanes() {
  return hn::Lanes(Floats());
}

// The groups [first, first + groups) of `count` rows of x from `row` on, zero past `count`.
void lay_out(const RoundedRows& x, std::size_t row, std::size_t count, std::size_t first,
             std::size_t groups, std::size_t lanes, std::int32_t* to) {
  const FloatWords d;
  const std::size_t width = hn::Lanes(d), all_groups = x.width / group;
  for (std::size_t l = 0; l < lanes; l += width) {
    const std::size_t live = l < count ? std::min(width, count - l) : 0;
    const std::size_t at = live == 0 ? row : row + l;
    const auto mask = hn::FirstN(d, live);
    const auto lane = hn::IfThenElseZero(mask, hn::Iota(d, 0));
    // A word for each lane, those of one row lying `stride` from those of the next.
    const auto column = [&](const void* from, std::size_t stride) HWY_ATTR {
      const auto index = hn::Mul(lane, hn::Set(d, static_cast<std::int32_t>(stride)));
      const auto* words = static_cast<const std::int32_t*>(from);
      return hn::IfThenElseZero(mask, hn::GatherIndex(d, words, index));
    };
    std::int32_t* out = to + l;
    for (std::size_t g = first; g < first + groups; ++g) {
      const std::int8_t* bytes = x.bytes(at) + g * group;
      for (std::size_t k = 0; k < group; k += 4, out += 2 * lanes) {
        const auto four = column(bytes + k, x.width / 4);
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
      hn::StoreU(column(x.steps(at) + g, all_groups), d, out);
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
    // Left rolled, GCC 12 copies every sum at every step.
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
  if (x.lanes == vector_lanes()) return packed_sums<1>(w, next, x, sums);
  packed_sums<2>(w, next, x, sums);
}

}  // namespace metala::linear::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::linear::cpu {
HWY_EXPORT(vector_lanes);
HWY_EXPORT(lay_out);
HWY_EXPORT(block_of_integers);

namespace {

// Owns panels of `rows` of the `count` rows of x, `words` of 32 bits for each of `lanes`.
class LaidOut {
 public:
  // In parts of some words, which `lay(first row, rows, first word, words, to)` lays out.
  template <class Lay>
  LaidOut(std::size_t count, std::size_t rows, std::size_t words, std::size_t lanes,
          std::size_t part, Lay lay)
      : rows_(rows) {
    const std::size_t panels = (count + rows - 1) / rows, parts = (words + part - 1) / part;
    words_ =
        Tensor::uninitialized({static_cast<std::int64_t>(panels), static_cast<std::int64_t>(words),
                               static_cast<std::int64_t>(lanes)},
                              DType::i32);
    const auto work = [&](std::int64_t begin, std::int64_t end) {
      for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
        const std::size_t row = i / parts * rows, k = i % parts * part;
        lay(row, std::min(rows, count - row), k, std::min(part, words - k),
            words_.data<std::int32_t>() + (i / parts * words + k) * lanes);
      }
    };
    parallel_ranges(static_cast<std::int64_t>(panels * parts), 4, work);
  }
  // Those of the rows from `row` on, at most block_lanes.
  Panels panels(std::size_t row) const {
    const auto size = [&](int i) { return static_cast<std::size_t>(words_.size(i)); };
    const std::size_t first = row / rows_;
    return {words_.data<std::int32_t>() + first * size(1) * size(2),
            std::min(block_lanes / rows_, size(0) - first), size(1), size(2)};
  }

 private:
  std::size_t rows_;
  Tensor words_;
};

LaidOut laid_out_floats(const Tensor& x, bool of_bf16) {
  const auto in = static_cast<std::size_t>(x.size(1)), two = 2 * float_lanes();
  const auto stride = static_cast<std::size_t>(x.stride(0));
  return {
      static_cast<std::size_t>(x.size(0)),
      panel_rows,
      (in + two - 1) / two * two,
      panel_rows,
      256,
      [&](std::size_t row, std::size_t rows, std::size_t k, std::size_t some, std::int32_t* to) {
        lay_out_floats(x.data<float>() + row * stride + k, stride, rows, std::min(some, in - k),
                       of_bf16, reinterpret_cast<float*>(to));
      }};
}

LaidOut laid_out_pairs_of_bf16(const Tensor& x) {
  using pairs_of_bf16::unit;
  const auto in = static_cast<std::size_t>(x.size(1));
  const auto stride = static_cast<std::size_t>(x.stride(0));
  return {
      static_cast<std::size_t>(x.size(0)),
      pairs_of_bf16::lane_rows,
      (in + unit - 1) / unit * unit / 2,
      pairs_of_bf16::lanes,
      128,
      [&](std::size_t row, std::size_t rows, std::size_t k, std::size_t some, std::int32_t* to) {
        pairs_of_bf16::lay_out(x.data<float>() + row * stride + 2 * k, stride, rows,
                               std::min(2 * some, in - 2 * k), to);
      }};
}

LaidOut laid_out_integers(const RoundedRows& x, bool by_vnni) {
  constexpr auto group = static_cast<std::size_t>(quantized::group);
  const std::size_t width = HWY_DYNAMIC_DISPATCH(vector_lanes)();
  const std::size_t lanes = by_vnni ? vnni::lanes : x.count <= width ? width : 2 * width;
  const std::size_t words = by_vnni ? vnni::words_of(group) : words_of(group);
  const auto lay_here = HWY_DYNAMIC_DISPATCH(lay_out);
  return {
      x.count,
      by_vnni ? vnni::lane_rows : lanes,
      x.width / group * words,
      lanes,
      8 * words,
      [&](std::size_t row, std::size_t rows, std::size_t k, std::size_t some, std::int32_t* to) {
        if (by_vnni) return vnni::lay_out(x, row, rows, k / words, some / words, to);
        lay_here(x, row, rows, k / words, some / words, lanes, to);
      }};
}

}  // namespace

void forward_blocked(const Tensor& x, std::span<const Map> maps, bool accumulate) {
  const std::int64_t rows = x.size(0), in = x.size(1);
  if (rows == 0) return;
  const profile::Scope scope("matrix products", flops_of(x, maps));
  // Which instructions Highway has chosen says nothing of which this processor has beside them.
  const bool by_vnni = vnni::available(), in_pairs = pairs_of_bf16::available();
  std::optional<LaidOut> floats, of_bf16, integers;
  for (const auto& map : maps) {
    const DType type = map.weight.dtype();
    if (type == DType::bf16) {
      if (of_bf16) continue;
      const Tensor halves = rounded_to_bf16(x);
      of_bf16 = in_pairs ? laid_out_pairs_of_bf16(halves) : laid_out_floats(halves, true);
    } else if (!in_blocks(type)) {
      if (!floats) floats = laid_out_floats(x, false);
    } else if (!integers) {
      integers = laid_out_integers(rounded(x), by_vnni);
    }
  }
  const auto with_integers =
      by_vnni ? vnni::block_of_integers : HWY_DYNAMIC_DISPATCH(block_of_integers);
  const std::vector<Chunk> blocks = even_chunks(maps, block_rows);
  const auto work_on = [&](const Chunk& block, const WeightRows& next) {
    const WeightRows w = block.weights();
    const Results results = block.results(accumulate);
    const bool packed = in_blocks(w.type), narrow = w.type == DType::bf16;
    const LaidOut& laid_out = packed ? *integers : narrow ? *of_bf16 : *floats;
    const auto multiply = packed               ? with_integers
                          : narrow && in_pairs ? pairs_of_bf16::block_of_bf16
                                               : block_of_floats;
    HWY_ALIGN float sums[block_lanes * block_rows];
    if (in == 0) std::fill_n(sums, block_lanes * block_rows, 0.0f);
    for (std::size_t first = 0; first < static_cast<std::size_t>(rows); first += block_lanes) {
      const std::size_t live = std::min(block_lanes, static_cast<std::size_t>(rows) - first);
      if (in > 0) multiply(w, next, laid_out.panels(first), sums);
      for (std::size_t n = 0; n < live; ++n) {
        results.put_row(first + n, w.count, sums + n * block_rows);
      }
    }
  };
  // Each thread knows the block after the one that it works on, for its weights to be on their way.
  std::atomic<std::size_t> taken = 0;
  const auto take = [&] { return taken.fetch_add(1, std::memory_order_relaxed); };
  parallel_tasks(std::min<std::int64_t>(thread_count(), static_cast<std::int64_t>(blocks.size())),
                 [&](std::int64_t) {
                   std::size_t next = take();
                   while (next < blocks.size()) {
                     const Chunk& block = blocks[next];
                     next = take();
                     work_on(block, next < blocks.size() ? blocks[next].weights() : WeightRows());
                   }
                 });
}

}  // namespace metala::linear::cpu
#endif
