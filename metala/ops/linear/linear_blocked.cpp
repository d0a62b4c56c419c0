// Linear maps of more than a few rows: a block of W is made wide once and meets every row of x.
//
// The lanes of a vector are rows of x, which is laid out anew for it: panels of `lanes` rows, one
// column after another. So a weight is broadcast and meets all rows of a panel in one multiply-add,
// and a tile of sums, some rows of W by one or two vectors of rows of x, stays in registers.
// Weights in blocks meet x in 16-bit integers (linear_cpu.h), two columns to a 32-bit word; what a
// group of 32 adds up to becomes a float once.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/linear/linear_blocked.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "metala/base/profile.h"
#include "metala/base/threads.h"
#include "metala/ops/linear/linear_blocks_cpu.h"
#include "metala/ops/linear/linear_cpu.h"
#include "metala/ops/linear/linear_vnni_cpu.h"
#include "metala/ops/linear/linear_weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metala::linear::cpu::HWY_NAMESPACE {

using FloatWords = hn::RebindToSigned<Floats>;
using FloatWord = hn::Vec<FloatWords>;

// Registers for sums: 16 of 32, or 8 of 16.
constexpr std::size_t sums_in_registers = HWY_LANES(float) >= 16 || HWY_ARCH_ARM_A64 ? 16 : 8;

std::size_t vector_lanes() {
  return hn::Lanes(Floats());
}

// Rows [0, count) of words as columns [words][lanes], zero past `count`.
void lay_out(const std::int32_t* rows, std::size_t stride, std::size_t count, std::size_t words,
             std::size_t lanes, std::int32_t* to) {
  const FloatWords d;
  const std::size_t width = hn::Lanes(d);
  for (std::size_t l = 0; l < lanes; l += width) {
    const std::size_t live = l < count ? std::min(width, count - l) : 0;
    const auto mask = hn::FirstN(d, live);
    const auto step = hn::Set(d, static_cast<std::int32_t>(stride));
    const auto index = hn::IfThenElseZero(mask, hn::Mul(hn::Iota(d, 0), step));
    const std::int32_t* from = rows + (live == 0 ? 0 : l * stride);
    for (std::size_t k = 0; k < words; ++k) {
      const auto column = hn::GatherIndex(d, from + k, index);
      hn::StoreU(hn::IfThenElseZero(mask, column), d, to + k * lanes + l);
    }
  }
}

// sums[r][lane] (+)= sum_k w[r][k] x[k][lane] for a tile of rows.
template <std::size_t rows, std::size_t vectors>
HWY_INLINE void add_float_tile(const float* w, const std::int32_t* x, std::size_t depth,
                               const Ahead& ahead, bool first, float* sums, std::size_t stride) {
  const Floats d;
  const std::size_t width = hn::Lanes(d);
  Float tile[rows][vectors];
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t v = 0; v < vectors; ++v) tile[r][v] = hn::Zero(d);
  }
  const auto* columns = reinterpret_cast<const float*>(x);
  for (std::size_t k = 0; k < depth; ++k, columns += vectors * width) {
    ahead.fetch<rows>(k);
    Float column[vectors];
    for (std::size_t v = 0; v < vectors; ++v) column[v] = hn::LoadU(d, columns + v * width);
    for (std::size_t r = 0; r < rows; ++r) {
      const auto weight = hn::Set(d, w[r * block_depth + k]);
      for (std::size_t v = 0; v < vectors; ++v) {
        tile[r][v] = hn::MulAdd(weight, column[v], tile[r][v]);
      }
    }
  }
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t v = 0; v < vectors; ++v) {
      float* to = sums + r * stride + v * width;
      hn::StoreU(first ? tile[r][v] : hn::Add(tile[r][v], hn::LoadU(d, to)), d, to);
    }
  }
}

template <class W>
HWY_INLINE void widen_block(const WeightRows& w, std::size_t k, std::size_t depth, float* to) {
  const std::size_t width = hn::Lanes(Floats());
  for (std::size_t r = 0; r < w.count; ++r, to += block_depth) {
    const W* from = reinterpret_cast<const W*>(w.row(r)) + k;
    std::size_t at = 0;
    for (; at + width <= depth; at += width) {
      hn::StoreU(load_wide(from + at), Floats(), to + at);
    }
    for (; at < depth; ++at) to[at] = static_cast<float>(from[at]);
  }
}

template <std::size_t vectors>
void float_sums(const WeightRows& w, const Panels& x, float* sums) {
  constexpr std::size_t rows = sums_in_registers / vectors;
  HWY_ALIGN float block[block_rows * block_depth];
  fill_up<rows>(w.count, block_depth, block);
  const std::size_t stride = x.count * x.lanes;
  for (std::size_t k = 0; k < w.in; k += block_depth) {
    const std::size_t depth = std::min(block_depth, w.in - k);
    if (w.type == DType::bf16) {
      widen_block<bf16>(w, k, depth, block);
    } else if (w.type == DType::f16) {
      widen_block<f16>(w, k, depth, block);
    } else {
      widen_block<float>(w, k, depth, block);
    }
    for (std::size_t p = 0; p < x.count; ++p) {
      for (std::size_t r = 0; r < w.count; r += rows) {
        add_float_tile<rows, vectors>(block + r * block_depth, x.at(p, k), depth,
                                      p == 0 ? ahead_of(w, r, k) : Ahead(), k == 0,
                                      sums + r * stride + p * x.lanes, stride);
      }
    }
  }
}

void block_of_floats(const WeightRows& w, const Panels& x, float* sums) {
  if (x.lanes == vector_lanes()) return float_sums<1>(w, x, sums);
  float_sums<2>(w, x, sums);
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

// The same for integers in groups: words are pairs of columns, scales[r][group].
template <std::size_t rows, std::size_t vectors>
HWY_INLINE void add_packed_tile(const std::int16_t* w, const float* scales, const std::int32_t* x,
                                std::size_t depth, const Ahead& ahead, bool first, float* sums,
                                std::size_t stride) {
  const Floats d;
  const FloatWords dw;
  const std::size_t width = hn::Lanes(d);
  Float tile[rows][vectors];
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t v = 0; v < vectors; ++v) tile[r][v] = hn::Zero(d);
  }
  for (std::size_t g = 0; g < depth / group; ++g) {
    FloatWord even[rows][vectors], odd[rows][vectors];
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t v = 0; v < vectors; ++v) even[r][v] = odd[r][v] = hn::Zero(dw);
    }
    for (std::size_t k = 0; k < group / 2; ++k, x += vectors * width) {
      ahead.fetch<rows>(g * (group / 2) + k);
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
    for (std::size_t r = 0; r < rows; ++r) {
      const auto scale = hn::Set(d, scales[r * (block_depth / group) + g]);
      for (std::size_t v = 0; v < vectors; ++v) {
        tile[r][v] = hn::MulAdd(sum_of_pairs(even[r][v], odd[r][v]), scale, tile[r][v]);
      }
    }
  }
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t v = 0; v < vectors; ++v) {
      float* to = sums + r * stride + v * width;
      hn::StoreU(first ? tile[r][v] : hn::Add(tile[r][v], hn::LoadU(d, to)), d, to);
    }
  }
}

template <std::size_t vectors>
void packed_sums(const WeightRows& w, const Panels& x, float* sums) {
  constexpr std::size_t rows = sums_in_registers / 2 / vectors;
  constexpr std::size_t groups = block_depth / group;
  HWY_ALIGN std::int16_t block[block_rows * block_depth];
  HWY_ALIGN float scales[block_rows * groups];
  fill_up<rows>(w.count, block_depth, block);
  fill_up<rows>(w.count, groups, scales);
  const std::size_t stride = x.count * x.lanes;
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
        add_packed_tile<rows, vectors>(block + r * block_depth, scales + r * groups, x.at(p, k / 2),
                                       depth, p == 0 ? ahead_of(w, r, k) : Ahead(), k == 0,
                                       sums + r * stride + p * x.lanes, stride);
      }
    }
  }
}

void block_of_integers(const WeightRows& w, const Panels& x, float* sums) {
  if (x.lanes == vector_lanes()) return packed_sums<1>(w, x, sums);
  packed_sums<2>(w, x, sums);
}

}  // namespace metala::linear::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::linear::cpu {
HWY_EXPORT(vector_lanes);
HWY_EXPORT(lay_out);
HWY_EXPORT(block_of_floats);
HWY_EXPORT(block_of_integers);

namespace {

// Owns the words of panels.
class LaidOut {
 public:
  // Rows of `words` 32-bit words each; in panels of one vector of `width` lanes, or of two.
  LaidOut(const void* rows, std::int64_t stride, std::int64_t count, std::int64_t words,
          std::size_t width_of_vectors) {
    const auto width = static_cast<std::int64_t>(width_of_vectors);
    const std::int64_t lanes = count <= width ? width : 2 * width;
    const std::int64_t panels = (count + lanes - 1) / lanes;
    words_ = Tensor::uninitialized({panels, words, lanes}, DType::i32);
    constexpr std::int64_t columns = 128;  // at a time
    const std::int64_t parts = (words + columns - 1) / columns;
    const auto lay = HWY_DYNAMIC_DISPATCH(lay_out);
    parallel_ranges(panels * parts, 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t first = i / parts * lanes, k = i % parts * columns;
        lay(static_cast<const std::int32_t*>(rows) + first * stride + k,
            static_cast<std::size_t>(stride), static_cast<std::size_t>(count - first),
            static_cast<std::size_t>(std::min(columns, words - k)), static_cast<std::size_t>(lanes),
            words_.data<std::int32_t>() + (i / parts * words + k) * lanes);
      }
    });
  }
  std::size_t lanes() const { return static_cast<std::size_t>(words_.size(2)); }
  Panels panels(std::size_t first, std::size_t most) const {
    const auto size = [&](int i) { return static_cast<std::size_t>(words_.size(i)); };
    return {words_.data<std::int32_t>() + first * size(1) * size(2),
            std::min(most, size(0) - first), size(1), size(2)};
  }

 private:
  Tensor words_;
};

}  // namespace

void forward_blocked(const Tensor& x, std::span<const Map> maps, bool accumulate) {
  const std::int64_t rows = x.size(0), in = x.size(1);
  if (rows == 0) return;
  const profile::Scope scope("matrix products", flops_of(x, maps));
  // Which instructions Highway has chosen says nothing of which this processor has beside them.
  const bool by_vnni = vnni::available();
  const std::size_t width = HWY_DYNAMIC_DISPATCH(vector_lanes)();
  std::optional<LaidOut> floats, integers;
  RoundedRows round;
  if (any_in_floats(maps)) floats.emplace(x.raw(), x.stride(0), rows, in, width);
  if (any_in_blocks(maps)) {
    round = rounded(x);
    integers.emplace(round.rows.get(), in / 2, rows, in / 2, by_vnni ? vnni::lanes : width);
  }
  const std::vector<Chunk> chunks = shrinking_chunks(maps, tile_rows);
  const auto with_floats = HWY_DYNAMIC_DISPATCH(block_of_floats);
  const auto with_integers =
      by_vnni ? vnni::block_of_integers : HWY_DYNAMIC_DISPATCH(block_of_integers);
  const auto work_on = [&](const Chunk& block) {
    const WeightRows w = block.weights();
    const Results results = block.results(accumulate);
    const bool packed = in_blocks(w.type);
    const LaidOut& laid_out = packed ? *integers : *floats;
    const std::size_t lanes = laid_out.lanes();
    HWY_ALIGN float sums[block_rows * block_lanes];
    if (in == 0) std::fill_n(sums, block_rows * block_lanes, 0.0f);
    for (std::size_t first = 0; first < static_cast<std::size_t>(rows); first += block_lanes) {
      const Panels panels = laid_out.panels(first / lanes, block_lanes / lanes);
      packed ? with_integers(w, panels, sums) : with_floats(w, panels, sums);
      const std::size_t stride = panels.count * lanes;
      const std::size_t live = std::min(stride, static_cast<std::size_t>(rows) - first);
      for (std::size_t n = 0; n < live; ++n) {
        const float step = packed ? round.steps[first + n] : 1.0f;
        for (std::size_t o = 0; o < w.count; ++o) {
          results.put(first + n, o, step * sums[o * stride + n]);
        }
      }
    }
  };
  parallel_tasks(static_cast<std::int64_t>(chunks.size()), [&](std::int64_t i) {
    Chunk block = chunks[static_cast<std::size_t>(i)];
    const std::int64_t end = block.end;
    for (; block.begin < end; block.begin = block.end) {
      block.end = std::min<std::int64_t>(block.begin + block_rows, end);
      work_on(block);
    }
  });
}

}  // namespace metala::linear::cpu
#endif
