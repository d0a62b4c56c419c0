// Matrix products and transpositions of a block's scratch, on aligned and padded rows.
#if defined(METALA_ATTENTION_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef METALA_ATTENTION_PRODUCT_INL_H_
#undef METALA_ATTENTION_PRODUCT_INL_H_
#else
#define METALA_ATTENTION_PRODUCT_INL_H_
#endif

#include <hwy/highway.h>

#include "metala/device/cpu/vector-inl.h"
#include "metala/ops/metala_attention/metala_attention_scratch.h"

HWY_BEFORE_NAMESPACE();
namespace metala::metala_attention::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using vector::HWY_NAMESPACE::Float;
using vector::HWY_NAMESPACE::Floats;

// A tile of the result stays in registers: 8 x 2 vectors of 32 registers, or 4 x 2 of 16.
constexpr std::size_t tile_rows = HWY_LANES(float) >= 16 ? 8 : 4;

// The left factor: element [m, k] is data[m * row + k * column], so a transpose is free.
struct Left {
  const float* data;
  std::ptrdiff_t row, column;
};

HWY_INLINE Left rows_of(Rows<float> matrix) {
  return {matrix.data, matrix.stride, 1};
}
HWY_INLINE Left columns_of(Rows<float> matrix) {
  return {matrix.data, 1, matrix.stride};
}

// Sums of [m, n] of one tile start at begin(m, n) and end in end(m, n, sum).
template <std::size_t vectors, class Begin, class End>
HWY_INLINE void product_tile(std::size_t m, std::size_t n, std::size_t depth, Left left,
                             Rows<float> right, Begin begin, End end) {
  const Floats d;
  const std::size_t width = hn::Lanes(d);
  Float sums[tile_rows][vectors];
  for (std::size_t i = 0; i < tile_rows; ++i) {
    for (std::size_t j = 0; j < vectors; ++j) sums[i][j] = begin(m + i, n + j * width);
  }
  const float* l = left.data + static_cast<std::ptrdiff_t>(m) * left.row;
  const float* r = right.data + n;
  for (std::size_t k = 0; k < depth; ++k, l += left.column, r += right.stride) {
    Float row[vectors];
    for (std::size_t j = 0; j < vectors; ++j) row[j] = hn::Load(d, r + j * width);
    for (std::size_t i = 0; i < tile_rows; ++i) {
      const auto factor = hn::Set(d, l[static_cast<std::ptrdiff_t>(i) * left.row]);
      for (std::size_t j = 0; j < vectors; ++j) sums[i][j] = hn::MulAdd(factor, row[j], sums[i][j]);
    }
  }
  for (std::size_t i = 0; i < tile_rows; ++i) {
    for (std::size_t j = 0; j < vectors; ++j) end(m + i, n + j * width, sums[i][j]);
  }
}

// left [rows, depth] times right [depth, columns]. Rows are rounded up to whole tiles: what is
// computed past them comes from padding and must be harmless to store. Columns are padded.
template <class Begin, class End>
HWY_INLINE void product(std::size_t rows, std::size_t columns, std::size_t depth, Left left,
                        Rows<float> right, Begin begin, End end) {
  const std::size_t width = hn::Lanes(Floats());
  std::size_t n = 0;
  for (; n + 2 * width <= columns; n += 2 * width) {
    for (std::size_t m = 0; m < rows; m += tile_rows) {
      product_tile<2>(m, n, depth, left, right, begin, end);
    }
  }
  for (; n < columns; n += width) {
    for (std::size_t m = 0; m < rows; m += tile_rows) {
      product_tile<1>(m, n, depth, left, right, begin, end);
    }
  }
}

// Where sums begin and end, other than in arithmetic of the caller's.
HWY_INLINE auto from_zero() {
  return [](std::size_t, std::size_t) { return hn::Zero(Floats()); };
}
HWY_INLINE auto from(Rows<float> matrix) {
  return [matrix](std::size_t m, std::size_t n) {
    return hn::Load(Floats(), matrix[static_cast<std::int64_t>(m)] + n);
  };
}
HWY_INLINE auto into(Rows<float> matrix) {
  return [matrix](std::size_t m, std::size_t n, Float sum) {
    hn::Store(sum, Floats(), matrix[static_cast<std::int64_t>(m)] + n);
  };
}

// to[j, i] = from[i, j]; rows and columns are multiples of 4.
HWY_INLINE void transpose(Rows<float> matrix, std::size_t rows, std::size_t columns,
                          Rows<float> to) {
#if HWY_TARGET == HWY_SCALAR
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < columns; ++j) to[j][i] = matrix[i][j];
  }
#else
  const hn::Full128<float> d;
  for (std::size_t j = 0; j < columns; j += 4) {
    for (std::size_t i = 0; i < rows; i += 4) {
      const auto row = [&](std::size_t at) {
        return hn::Load(d, matrix[static_cast<std::int64_t>(i + at)] + j);
      };
      const auto column = [&](std::size_t at) { return to[static_cast<std::int64_t>(j + at)] + i; };
      const auto low01 = hn::InterleaveLower(d, row(0), row(1));
      const auto low23 = hn::InterleaveLower(d, row(2), row(3));
      const auto high01 = hn::InterleaveUpper(d, row(0), row(1));
      const auto high23 = hn::InterleaveUpper(d, row(2), row(3));
      hn::Store(hn::ConcatLowerLower(d, low23, low01), d, column(0));
      hn::Store(hn::ConcatUpperUpper(d, low23, low01), d, column(1));
      hn::Store(hn::ConcatLowerLower(d, high23, high01), d, column(2));
      hn::Store(hn::ConcatUpperUpper(d, high23, high01), d, column(3));
    }
  }
#endif
}

}  // namespace metala::metala_attention::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
