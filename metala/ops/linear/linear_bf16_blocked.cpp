// Many rows of x with W in bf16 on processors with AVX-512 BF16.
//
// As in linear_vnni_blocked.cpp the lanes are eight rows of x by two rows of W, which are
// interleaved so that one load broadcasts two weights of each; one instruction multiplies them by
// two columns of x and adds both products to a sum in float. Eight pairs of rows of W by two panels
// of x take ten loads for 16 such instructions.
#include "metala/ops/linear/linear_bf16_cpu.h"

#include "metala/ops/linear/linear_avx512-inl.h"

#if defined(__x86_64__)
#define METALA_BF16 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,fma,f16c")))
#define METALA_BF16_INLINE METALA_BF16 __attribute__((always_inline)) inline

namespace metala::linear::cpu::pairs_of_bf16 {
namespace {

using avx512::block_panels;
using avx512::interleave;
using avx512::place_of;
using avx512::width;

constexpr std::size_t block_depth = 256;  // columns: two panels of x fill 16 KiB, weights as many
constexpr std::size_t words_of_unit = unit / 2 * width;
constexpr std::size_t words_of_step = 2;  // of what is fetched ahead, a line or two each time

// Columns of 16 rows of W, words of two interleaved.
constexpr std::size_t rows_of_tile = 16;
constexpr std::size_t pairs_of_tile = rows_of_tile / 2;
struct Tile {
  alignas(64) std::uint16_t weights[block_depth / unit][pairs_of_tile][2 * unit];
};

// Columns of the rows of a tile on their way into it: where there are too few rows the last one
// again, where there are too few columns zeros.
struct Unpacking {
  const std::uint16_t* rows[rows_of_tile];
  std::size_t columns;
  Tile* to;

  void begin(const WeightRows& w, std::size_t row, std::size_t k, Tile* into) {
    for (std::size_t r = 0; r < rows_of_tile; ++r) {
      const std::byte* from = w.row(std::min(row + r, w.count - 1));
      rows[r] = reinterpret_cast<const std::uint16_t*>(from) + k;
    }
    columns = w.in - k;
    to = into;
  }
  METALA_BF16_INLINE void step(std::size_t u) const {
    const std::size_t left = columns - u * unit;
    const __mmask32 live = left >= unit ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
#pragma GCC unroll 8
    for (std::size_t i = 0; i < pairs_of_tile; ++i) {
      interleave(_mm512_maskz_loadu_epi16(live, rows[2 * i] + u * unit),
                 _mm512_maskz_loadu_epi16(live, rows[2 * i + 1] + u * unit), to->weights[u][i]);
    }
  }
};

// sums[i][panel] (+)= the products of `tiles` tiles of W with `panels` panels of x.
template <std::size_t tiles, std::size_t panels>
METALA_BF16_INLINE void add_tiles(const Tile* w, const Panels& x, std::size_t panel, std::size_t k,
                                  std::size_t units, Ahead* ahead, const Unpacking* then,
                                  bool first, float (*sums)[block_panels][width]) {
  constexpr std::size_t count = tiles * pairs_of_tile;
  const std::int32_t* from[panels];
  __m512 sum[count][panels];
#pragma GCC unroll 2
  for (std::size_t p = 0; p < panels; ++p) {
    from[p] = x.at(panel + p, k / 2);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < count; ++i) {
      sum[i][p] = first ? _mm512_setzero_ps() : _mm512_load_ps(sums[i][panel + p]);
    }
  }
  for (std::size_t u = 0; u < units; ++u) {
    if (then != nullptr) then->step(u);
#pragma GCC unroll 16
    for (std::size_t c = 0; c < unit / 2; ++c) {
      if (ahead != nullptr && c % words_of_step == 0) ahead->step();
      __m512bh columns[panels];
#pragma GCC unroll 2
      for (std::size_t p = 0; p < panels; ++p) {
        columns[p] = reinterpret_cast<__m512bh>(_mm512_load_si512(from[p] + c * width));
      }
#pragma GCC unroll 16
      for (std::size_t i = 0; i < count; ++i) {
        const auto* at = w[i / pairs_of_tile].weights[u][i % pairs_of_tile] + 4 * place_of(c);
        std::int64_t four;
        std::memcpy(&four, at, sizeof(four));
        const auto weights = reinterpret_cast<__m512bh>(_mm512_set1_epi64(four));
#pragma GCC unroll 2
        for (std::size_t p = 0; p < panels; ++p) {
          sum[i][p] = _mm512_dpbf16_ps(sum[i][p], weights, columns[p]);
        }
      }
    }
#pragma GCC unroll 2
    for (std::size_t p = 0; p < panels; ++p) from[p] += words_of_unit;
  }
#pragma GCC unroll 2
  for (std::size_t p = 0; p < panels; ++p) {
#pragma GCC unroll 16
    for (std::size_t i = 0; i < count; ++i) _mm512_store_ps(sums[i][panel + p], sum[i][p]);
  }
}

METALA_BF16 void sums_of_blocks(const WeightRows& w, const WeightRows& next, const Panels& x,
                                float* to) {
  static_assert(block_rows == 2 * rows_of_tile);
  Tile tiles[2];
  Unpacking unpacking[2];
  alignas(64) float sums[2 * pairs_of_tile][block_panels][width];
  // Two panels of x meet a tile at a time; one that is left over, both tiles.
  const std::size_t count = x.count % 2 == 0 && w.count <= rows_of_tile ? 1 : 2;
  Ahead ahead(next, (x.count == 1 ? 1 : count) * (w.in / unit) * (unit / 2 / words_of_step));
  for (std::size_t k = 0; k < w.in; k += block_depth) {
    const std::size_t units = (std::min(block_depth, w.in - k) + unit - 1) / unit;
    for (std::size_t i = 0; i < count; ++i) {
      unpacking[i].begin(w, i * rows_of_tile, k, tiles + i);
      if (i == 1 && x.count > 1) continue;  // while the first is multiplied
      for (std::size_t u = 0; u < units; ++u) unpacking[i].step(u);
    }
    for (std::size_t p = 0; p < x.count; p += 2) {
      Ahead* const fetch = p == 0 ? &ahead : nullptr;
      if (p + 2 > x.count) {
        add_tiles<2, 1>(tiles, x, p, k, units, fetch, nullptr, k == 0, sums);
        continue;
      }
      for (std::size_t t = 0; t < count; ++t) {
        add_tiles<1, 2>(tiles + t, x, p, k, units, fetch,
                        p == 0 && t + 1 < count ? unpacking + 1 : nullptr, k == 0,
                        sums + t * pairs_of_tile);
      }
    }
  }
  for (std::size_t i = 0; i < count * pairs_of_tile; i += 4) {
    for (std::size_t p = 0; p < x.count; ++p) {
      avx512::put_sums(sums + i, p, to + p * lane_rows * block_rows + 2 * i);
    }
  }
}

METALA_BF16 void lay_out_words(const float* x, std::size_t stride, std::size_t count,
                               std::size_t columns, std::int32_t* to) {
  constexpr std::size_t words = 8;  // at a time
  const std::size_t whole = (columns + unit - 1) / unit * unit;
  for (std::size_t k = 0; k < whole; k += 2 * words, to += words * width) {
    const __mmask16 live = avx512::first_lanes(k < columns ? columns - k : 0);
    __m256i rows[lane_rows];
    for (std::size_t n = 0; n < lane_rows; ++n) {
      const __mmask16 some = n < count ? live : __mmask16{0};
      const __m512i row = _mm512_maskz_loadu_epi32(some, x + n * stride + k);
      rows[n] = _mm512_cvtepi32_epi16(_mm512_srli_epi32(row, 16));
    }
    __m512i columns_of_two[words];
    avx512::transpose_words(rows, columns_of_two);
    for (std::size_t c = 0; c < words; ++c) _mm512_store_si512(to + c * width, columns_of_two[c]);
  }
}

avx512::Form& form() {
  static avx512::Form only(avx512::supported() && __builtin_cpu_supports("avx512bf16"));
  return only;
}

}  // namespace

bool available() {
  return form().on();
}

void set_available(bool on) {
  form().set(on);
}

void lay_out(const float* x, std::size_t stride, std::size_t count, std::size_t columns,
             std::int32_t* to) {
  lay_out_words(x, stride, count, columns, to);
}

void block_of_bf16(const WeightRows& w, const WeightRows& next, const Panels& x, float* sums) {
  sums_of_blocks(w, next, x, sums);
}

}  // namespace metala::linear::cpu::pairs_of_bf16
#else
namespace metala::linear::cpu::pairs_of_bf16 {
bool available() {
  return false;
}
void set_available(bool) {}
void lay_out(const float*, std::size_t, std::size_t, std::size_t, std::int32_t*) {}
void block_of_bf16(const WeightRows&, const WeightRows&, const Panels&, float*) {}
}  // namespace metala::linear::cpu::pairs_of_bf16
#endif
