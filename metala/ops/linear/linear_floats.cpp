// Linear maps of more than a few rows with weights in floats: tiles of dot products.
//
// The lanes of a vector are columns of W, as it lies in memory, so a weight is read and made wide
// once for eight rows of x, and nothing is broadcast: 16 sums take 10 loads (linear_blocked.cpp
// says how the other form, for integers, goes about it). x is laid out for it in panels of four
// rows.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/linear/linear_floats.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "metala/base/threads.h"
#include "metala/ops/linear/linear_blocks_cpu.h"
#include "metala/ops/linear/linear_weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metala::linear::cpu::HWY_NAMESPACE {

constexpr std::size_t rows_of_tile = 2;  // of W
// So that sums stay in registers, 16 of 32 or 8 of 16.
constexpr std::size_t panels_of_tile = HWY_LANES(float) >= 16 || HWY_ARCH_ARM_A64 ? 2 : 1;
constexpr std::size_t block_depth = 1024;     // columns at a time: eight rows of x fill 32 KiB
constexpr std::size_t columns_of_step = 128;  // between fetches of the next block

std::size_t float_lanes() {
  return hn::Lanes(Floats());
}

// Two vectors of weights. Of bf16, whose even elements become floats by a shift and whose odd ones
// by a mask, the first holds the even ones.
struct Two {
  Float first, second;
};

template <class W>
HWY_INLINE Two load_two(const W* w) {
  return {load_wide(w), load_wide(w + hn::Lanes(Floats()))};
}

HWY_INLINE Two load_two(const bf16* w) {
  const hn::RebindToUnsigned<Floats> words;
  const auto both = hn::LoadU(words, reinterpret_cast<const std::uint32_t*>(w));
  return {hn::BitCast(Floats(), hn::ShiftLeft<16>(both)),
          hn::BitCast(Floats(), hn::And(both, hn::Set(words, 0xffff0000u)))};
}

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE Float even_of(Float a, Float) {
  return a;
}
HWY_INLINE Float odd_of(Float, Float b) {
  return b;
}
#else
HWY_INLINE Float even_of(Float a, Float b) {
  return hn::ConcatEven(Floats(), b, a);
}
HWY_INLINE Float odd_of(Float a, Float b) {
  return hn::ConcatOdd(Floats(), b, a);
}
#endif

// Columns [0, columns) of `count` rows of x, zero beyond both, as [two vectors][row][lanes] for
// whole pairs of vectors; in the order of bf16's pairs if `of_bf16`.
void lay_out_floats(const float* x, std::size_t stride, std::size_t count, std::size_t columns,
                    bool of_bf16, float* to) {
  const Floats d;
  const std::size_t width = hn::Lanes(d);
  for (std::size_t k = 0; k < columns; k += 2 * width, to += 2 * width * panel_rows) {
    for (std::size_t r = 0; r < panel_rows; ++r) {
      HWY_ALIGN float buffer[2 * HWY_MAX_BYTES / sizeof(float)] = {};
      const float* from = x + r * stride + k;
      if (r >= count || columns - k < 2 * width) {
        if (r < count) std::memcpy(buffer, from, (columns - k) * sizeof(float));
        from = buffer;
      }
      const auto a = hn::LoadU(d, from), b = hn::LoadU(d, from + width);
      hn::StoreU(of_bf16 ? even_of(a, b) : a, d, to + r * width);
      hn::StoreU(of_bf16 ? odd_of(a, b) : b, d, to + (panel_rows + r) * width);
    }
  }
}

// As bf16's constructor rounds.
void round_to_bf16(const float* x, std::size_t n, float* to) {
  const hn::RebindToUnsigned<Floats> words;
  vector::HWY_NAMESPACE::for_lanes(n, [&](auto lanes) HWY_ATTR {
    const auto v = lanes.load(x);
    const auto bits = hn::BitCast(words, v);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 1));
    const auto up = hn::Add(bits, hn::Add(odd, hn::Set(words, 0x7fff)));
    const auto quiet = hn::Or(bits, hn::Set(words, 0x400000));
    const auto nan = hn::MaskFromVec(hn::BitCast(words, hn::VecFromMask(Floats(), hn::IsNaN(v))));
    const auto rounded = hn::And(hn::IfThenElse(nan, quiet, up), hn::Set(words, 0xffff0000));
    lanes.store(hn::BitCast(Floats(), rounded), to);
  });
}

#if HWY_TARGET != HWY_SCALAR
// The sum of the blocks of four lanes.
template <class D, class V>
HWY_INLINE auto fold(D, V v) {
  if constexpr (hn::MaxLanes(D()) <= 4) {
    return v;
  } else {
    const hn::Half<D> half;
    return fold(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}
#endif

HWY_INLINE void store_sums(Float a, Float b, Float c, Float e, float* to) {
#if HWY_TARGET == HWY_SCALAR
  to[0] = hn::GetLane(a), to[1] = hn::GetLane(b), to[2] = hn::GetLane(c), to[3] = hn::GetLane(e);
#else
  const Floats d;
  const hn::Repartition<double, Floats> pairs;
  const auto ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const auto ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  const auto low = hn::InterleaveLower(pairs, hn::BitCast(pairs, ab), hn::BitCast(pairs, ce));
  const auto high = hn::InterleaveUpper(pairs, hn::BitCast(pairs, ab), hn::BitCast(pairs, ce));
  const auto sums = fold(d, hn::Add(hn::BitCast(d, low), hn::BitCast(d, high)));
  hn::StoreU(sums, hn::DFromV<decltype(sums)>(), to);
#endif
}

// GCC would read x again for each row of W, and loads would bind.
HWY_INLINE void keep_in_register([[maybe_unused]] Float& v) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && !defined(__clang__)
  asm("" : "+v"(v.raw));
#endif
}

// Columns of two rows of W with those of `panels` panels of x: sums[n][r] (+)= w[r] . x[n].
template <std::size_t panels, class W>
HWY_INLINE void add_dots(const W* const* w, const float* x, std::size_t panel_size,
                         std::size_t columns, Ahead& ahead, bool first, float* sums) {
  constexpr std::size_t rows = rows_of_tile, count = panels * panel_rows;
  const Floats d;
  const std::size_t width = hn::Lanes(d);
  Float sum[rows][count];
#pragma GCC unroll 2
  for (std::size_t r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < count; ++n) sum[r][n] = hn::Zero(d);
  }
  const auto add_half = [&](std::size_t half, Float w0, Float w1) {
#pragma GCC unroll 8
    for (std::size_t n = 0; n < count; ++n) {
      const std::size_t row = half * panel_rows + n % panel_rows;
      auto column = hn::LoadU(d, x + n / panel_rows * panel_size + row * width);
      keep_in_register(column);
      sum[0][n] = hn::MulAdd(w0, column, sum[0][n]);
      sum[1][n] = hn::MulAdd(w1, column, sum[1][n]);
    }
  };
  const auto add = [&](const Two& w0, const Two& w1) {
    add_half(0, w0.first, w1.first);
    add_half(1, w0.second, w1.second);
    x += 2 * width * panel_rows;
  };
  std::size_t k = 0;
  for (; k + 2 * width <= columns; k += 2 * width) {
    if (k % columns_of_step == 0) ahead.step();
    add(load_two(w[0] + k), load_two(w[1] + k));
  }
  if (k < columns) {
    W rest[rows][2 * HWY_MAX_BYTES / sizeof(float)] = {};
    for (std::size_t r = 0; r < rows; ++r) {
      std::memcpy(static_cast<void*>(rest[r]), w[r] + k, (columns - k) * sizeof(W));
    }
    add(load_two(rest[0]), load_two(rest[1]));
  }
#pragma GCC unroll 2
  for (std::size_t r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (std::size_t n = 0; n < count; n += panel_rows) {
      float four[panel_rows];
      store_sums(sum[r][n], sum[r][n + 1], sum[r][n + 2], sum[r][n + 3], four);
      for (std::size_t i = 0; i < panel_rows; ++i) {
        float& to = sums[(n + i) * block_rows + r];
        to = first ? four[i] : to + four[i];
      }
    }
  }
}

template <class W>
void dots_of_block(const WeightRows& w, const WeightRows& next, const Panels& x, float* sums) {
  const auto* from = reinterpret_cast<const float*>(x.words);
  const std::size_t panel_size = x.depth * panel_rows;
  const std::size_t passes = (x.count + panels_of_tile - 1) / panels_of_tile;
  Ahead ahead(next,
              passes * ((w.count + rows_of_tile - 1) / rows_of_tile) * (w.in / columns_of_step));
  for (std::size_t k = 0; k < w.in; k += block_depth) {
    const std::size_t columns = std::min(block_depth, w.in - k);
    for (std::size_t p = 0; p < x.count; p += panels_of_tile) {
      for (std::size_t r = 0; r < w.count; r += rows_of_tile) {
        const W* rows[rows_of_tile];
        for (std::size_t i = 0; i < rows_of_tile; ++i) {
          rows[i] = reinterpret_cast<const W*>(w.row(std::min(r + i, w.count - 1))) + k;
        }
        const float* panel = from + p * panel_size + k * panel_rows;
        float* to = sums + p * panel_rows * block_rows + r;
        if (p + panels_of_tile <= x.count) {
          add_dots<panels_of_tile>(rows, panel, panel_size, columns, ahead, k == 0, to);
        } else {
          add_dots<1>(rows, panel, panel_size, columns, ahead, k == 0, to);
        }
      }
    }
  }
}

void block_of_floats(const WeightRows& w, const WeightRows& next, const Panels& x, float* sums) {
  if (w.type == DType::bf16) return dots_of_block<bf16>(w, next, x, sums);
  if (w.type == DType::f16) return dots_of_block<f16>(w, next, x, sums);
  dots_of_block<float>(w, next, x, sums);
}

void put_sums(const Results& to, std::size_t first, std::size_t rows, std::size_t count,
              const float* sums) {
  for (std::size_t n = 0; n < rows; ++n, sums += block_rows) {
    float* y = to.y + (first + n) * to.stride;
    vector::HWY_NAMESPACE::for_lanes(count, [&](auto lanes) HWY_ATTR {
      auto sum = lanes.load(sums);
      if (to.bias != nullptr) sum = hn::Add(sum, lanes.load(to.bias));
      if (to.accumulate) sum = hn::Add(lanes.load(y), sum);
      lanes.store(sum, y);
    });
  }
}

}  // namespace metala::linear::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::linear::cpu {
HWY_EXPORT(float_lanes);
HWY_EXPORT(lay_out_floats);
HWY_EXPORT(block_of_floats);
HWY_EXPORT(round_to_bf16);
HWY_EXPORT(put_sums);

std::size_t float_lanes() {
  return HWY_DYNAMIC_DISPATCH(float_lanes)();
}

void round_to_bf16(const float* x, std::size_t n, float* to) {
  HWY_DYNAMIC_DISPATCH(round_to_bf16)(x, n, to);
}

Tensor rounded_to_bf16(const Tensor& x) {
  const Tensor to = Tensor::uninitialized(x.shape());
  parallel_ranges(x.size(0), 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      round_to_bf16(x.data<float>() + r * x.stride(0), static_cast<std::size_t>(x.size(1)),
                    to.data<float>() + r * to.stride(0));
    }
  });
  return to;
}

void lay_out_floats(const float* x, std::size_t stride, std::size_t count, std::size_t columns,
                    bool of_bf16, float* to) {
  HWY_DYNAMIC_DISPATCH(lay_out_floats)(x, stride, count, columns, of_bf16, to);
}

void block_of_floats(const WeightRows& w, const WeightRows& next, const Panels& x, float* sums) {
  HWY_DYNAMIC_DISPATCH(block_of_floats)(w, next, x, sums);
}

void put_sums(const Results& to, std::size_t first, std::size_t rows, std::size_t count,
              const float* sums) {
  HWY_DYNAMIC_DISPATCH(put_sums)(to, first, rows, count, sums);
}

}  // namespace metala::linear::cpu
#endif
