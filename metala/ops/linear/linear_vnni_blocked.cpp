// Many rows of x with weights in blocks on processors with AVX-512 VNNI.
//
// The lanes of a vector are eight rows of x by two rows of W. Four weights of each of the two,
// lying side by side, are broadcast and meet four columns of x, each row of x in two lanes. So four
// pairs of rows of W by two panels of x take six loads for eight multiply-adds, where lanes that
// are sixteen rows of x would take nine, and eight rows of x fill a vector. A group's sums begin
// with what the offset of the weights counts too much taken away, and are below 32 * 255 * 127 <
// 2^24.
#include "metala/ops/linear/linear_vnni-inl.h"

#if defined(__x86_64__)
namespace metala::linear::cpu::vnni {
namespace {

using avx512::block_panels;
using avx512::interleave;
using avx512::place_of;

constexpr std::size_t block_depth = 256;  // columns: two panels of x fill 10 KiB, weights 8
constexpr std::size_t words_of_group = words_of(group) * width;

// Eight rows of W unpacked, as [pair of groups][pair of rows], with words of four columns
// interleaved; so are their scales, of 16 groups at a time.
constexpr std::size_t rows_of_tile = 8;
constexpr std::size_t pairs_of_tile = rows_of_tile / 2;
constexpr std::size_t groups_of_block = block_depth / group;
static_assert(groups_of_block <= width);
struct Tile {
  alignas(64) std::uint8_t weights[groups_of_block / 2][pairs_of_tile][2 * pair];
  alignas(64) float scales[pairs_of_tile][2 * width];
};

template <DType type>
METALA_VNNI_INLINE __m512i unpack_pair(const std::byte* integers) {
  if constexpr (type == DType::q8) return plus_128(integers);
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(integers));
  return plus_8(_mm512_inserti64x4(_mm512_castsi256_si512(both), _mm256_srli_epi16(both, 4), 1));
}

// Columns of the rows of a tile on their way into it; where there are too few rows, the last one
// again.
template <DType type>
struct Unpacking {
  const std::byte* integers[rows_of_tile];
  Tile* to;

  METALA_VNNI void begin(const WeightRows& w, std::size_t row, std::size_t k, std::size_t depth,
                         Tile* into) {
    const __mmask16 live = first_lanes(depth / group);
    __m512i scales[rows_of_tile];
    for (std::size_t r = 0; r < rows_of_tile; ++r) {
      const std::byte* from = w.row(std::min(row + r, w.count - 1));
      scales[r] = _mm512_castps_si512(scales_of(from, k / group, live));
      integers[r] = from + w.in / group * 2 + bytes_of_columns(type, k);
    }
    to = into;
    for (std::size_t i = 0; i < pairs_of_tile; ++i) {
      interleave(scales[2 * i], scales[2 * i + 1], to->scales[i]);
    }
  }
  METALA_VNNI_INLINE void pair_of_groups(std::size_t p) const {
    const std::size_t at = bytes_of_columns(type, p * pair);
#pragma GCC unroll 4
    for (std::size_t i = 0; i < pairs_of_tile; ++i) {
      interleave(unpack_pair<type>(integers[2 * i] + at),
                 unpack_pair<type>(integers[2 * i + 1] + at), to->weights[p][i]);
    }
  }
};

// sums[i][panel] (+)= the products of `tiles` tiles of W with `panels` panels of x.
template <DType type, std::size_t tiles, std::size_t panels>
METALA_VNNI_INLINE void add_tiles(const Tile* w, const Panels& x, std::size_t panel, std::size_t k,
                                  std::size_t groups, Ahead* ahead, const Unpacking<type>* then,
                                  bool first, float (*sums)[block_panels][width]) {
  constexpr std::size_t count = tiles * pairs_of_tile;
  const std::int32_t* from[panels];
  __m512 total[count][panels];
#pragma GCC unroll 2
  for (std::size_t p = 0; p < panels; ++p) {
    from[p] = x.at(panel + p, words_of(k));
#pragma GCC unroll 8
    for (std::size_t i = 0; i < count; ++i) {
      total[i][p] = first ? _mm512_setzero_ps() : _mm512_load_ps(sums[i][panel + p]);
    }
  }
  for (std::size_t g = 0; g < groups; ++g) {
    if (ahead != nullptr) ahead->step();
    if (then != nullptr && g % 2 == 0) {
#pragma GCC unroll 2
      for (std::size_t t = 0; t < tiles; ++t) then[t].pair_of_groups(g / 2);
    }
    __m512i sum[count][panels];
#pragma GCC unroll 2
    for (std::size_t p = 0; p < panels; ++p) {
      const __m512i negative = _mm512_load_si512(from[p] + group / 4 * width);
      const __m512i begin = _mm512_slli_epi32(negative, type == DType::q8 ? 7 : 3);
#pragma GCC unroll 8
      for (std::size_t i = 0; i < count; ++i) sum[i][p] = begin;
    }
    const std::size_t half = g % 2 * 32;  // of the bytes of a pair of groups
#pragma GCC unroll 8
    for (std::size_t c = 0; c < group / 4; ++c) {
      __m512i columns[panels];
#pragma GCC unroll 2
      for (std::size_t p = 0; p < panels; ++p) columns[p] = _mm512_load_si512(from[p] + c * width);
#pragma GCC unroll 8
      for (std::size_t i = 0; i < count; ++i) {
        const Tile& tile = w[i / pairs_of_tile];
        const auto* at = tile.weights[g / 2][i % pairs_of_tile] + half + 8 * place_of(c);
        std::int64_t eight;
        std::memcpy(&eight, at, sizeof(eight));
        const __m512i weights = _mm512_set1_epi64(eight);
#pragma GCC unroll 2
        for (std::size_t p = 0; p < panels; ++p) {
          sum[i][p] = _mm512_dpbusd_epi32(sum[i][p], weights, columns[p]);
        }
      }
    }
    const std::size_t place = 2 * place_of(g);
    __m512 step[panels];
#pragma GCC unroll 2
    for (std::size_t p = 0; p < panels; ++p) {
      step[p] = _mm512_load_ps(from[p] + (group / 4 + 1) * width);
      from[p] += words_of_group;
    }
#pragma GCC unroll 8
    for (std::size_t i = 0; i < count; ++i) {
      double two;
      std::memcpy(&two, w[i / pairs_of_tile].scales[i % pairs_of_tile] + place, sizeof(two));
      const __m512 scale = _mm512_castpd_ps(_mm512_set1_pd(two));
#pragma GCC unroll 2
      for (std::size_t p = 0; p < panels; ++p) {
        total[i][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][p]), _mm512_mul_ps(scale, step[p]),
                                      total[i][p]);
      }
    }
  }
#pragma GCC unroll 2
  for (std::size_t p = 0; p < panels; ++p) {
#pragma GCC unroll 8
    for (std::size_t i = 0; i < count; ++i) _mm512_store_ps(sums[i][panel + p], total[i][p]);
  }
}

template <DType type>
METALA_VNNI void sums_of_blocks(const WeightRows& w, const WeightRows& next, const Panels& x,
                                float* to) {
  constexpr std::size_t most = block_rows / rows_of_tile;
  Tile tiles[most];
  Unpacking<type> unpacking[2];
  alignas(64) float sums[most * pairs_of_tile][block_panels][width];
  // Two panels of x meet a tile at a time; one that is left over, two tiles.
  const std::size_t whole = x.count % 2 == 0 ? rows_of_tile : 2 * rows_of_tile;
  const std::size_t count = (w.count + whole - 1) / whole * whole / rows_of_tile;
  Ahead ahead(next, (x.count == 1 ? count / 2 : count) * (w.in / group));
  for (std::size_t k = 0; k < w.in; k += block_depth) {
    const std::size_t depth = std::min(block_depth, w.in - k);
    for (std::size_t p = 0; p < x.count; p += 2) {
      const bool two = p + 2 <= x.count;
      const std::size_t at_once = two ? 1 : 2;
      for (std::size_t t = 0; t < count; t += at_once) {
        // The first tiles are unpacked here, further ones while those before them are multiplied.
        const bool more = p == 0 && t + at_once < count;
        for (std::size_t i = 0; i < at_once; ++i) {
          if (p == 0 && t == 0) {
            unpacking[i].begin(w, i * rows_of_tile, k, depth, tiles + i);
            for (std::size_t g = 0; g < depth / pair; ++g) unpacking[i].pair_of_groups(g);
          }
          const std::size_t next_tile = t + at_once + i;
          if (more) {
            unpacking[i].begin(w, next_tile * rows_of_tile, k, depth, tiles + next_tile);
          }
        }
        float(*const into)[block_panels][width] = sums + t * pairs_of_tile;
        if (two) {
          add_tiles<type, 1, 2>(tiles + t, x, p, k, depth / group, p == 0 ? &ahead : nullptr,
                                more ? unpacking : nullptr, k == 0, into);
        } else {
          add_tiles<type, 2, 1>(tiles + t, x, p, k, depth / group, p == 0 ? &ahead : nullptr,
                                more ? unpacking : nullptr, k == 0, into);
        }
      }
    }
  }
  for (std::size_t t = 0; t < count; ++t) {
    for (std::size_t p = 0; p < x.count; ++p) {
      avx512::put_sums(sums + t * pairs_of_tile, p,
                       to + p * lane_rows * block_rows + t * rows_of_tile);
    }
  }
}

METALA_VNNI void lay_out_groups(const RoundedPart& x, std::size_t count, std::size_t groups,
                                std::int32_t* to) {
  const auto live = static_cast<__mmask8>(first_lanes(count));
  const __m256i apart = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                           _mm256_set1_epi32(static_cast<int>(part_groups)));
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const __m512i ones = _mm512_set1_epi8(1);
  for (std::size_t g = 0; g < groups; ++g, to += words_of_group) {
    __m256i rows[lane_rows];
    for (std::size_t n = 0; n < lane_rows; ++n) {
      const auto* from = reinterpret_cast<const __m256i*>(x.bytes[n] + g * group);
      rows[n] = n < count ? _mm256_loadu_si256(from) : _mm256_setzero_si256();
    }
    __m512i columns[group / 4], sum = _mm512_setzero_si512();
    avx512::transpose_words(rows, columns);
    for (std::size_t c = 0; c < group / 4; ++c) {
      _mm512_store_si512(to + c * width, columns[c]);
      sum = _mm512_dpbusd_epi32(sum, ones, columns[c]);
    }
    _mm512_store_si512(to + group / 4 * width, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
    const __m256 step =
        _mm256_mmask_i32gather_ps(_mm256_setzero_ps(), live, apart, x.steps[0] + g, sizeof(float));
    _mm512_store_ps(to + (group / 4 + 1) * width,
                    _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(step)));
  }
}

avx512::Form& form() {
  static avx512::Form only(avx512::supported() && __builtin_cpu_supports("avx512vnni"));
  return only;
}

}  // namespace

bool available() {
  return form().on();
}

void set_available(bool on) {
  form().set(on);
}

void lay_out(const RoundedPart& x, std::size_t count, std::size_t groups, std::int32_t* to) {
  lay_out_groups(x, count, groups, to);
}

void block_of_integers(const WeightRows& w, const WeightRows& next, const Panels& x, float* sums) {
  if (w.type == DType::q8) return sums_of_blocks<DType::q8>(w, next, x, sums);
  sums_of_blocks<DType::q4>(w, next, x, sums);
}

}  // namespace metala::linear::cpu::vnni
#else
namespace metala::linear::cpu::vnni {
bool available() {
  return false;
}
void set_available(bool) {}
void lay_out(const RoundedPart&, std::size_t, std::size_t, std::int32_t*) {}
void block_of_integers(const WeightRows&, const WeightRows&, const Panels&, float*) {}
}  // namespace metala::linear::cpu::vnni
#endif
