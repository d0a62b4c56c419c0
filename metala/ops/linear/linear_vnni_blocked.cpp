// Many rows of x with weights in blocks on processors with AVX-512 VNNI.
//
// The lanes are rows of x, in 16-bit integers as 256 high + low, both signed bytes; weights are
// bytes without a sign, w + 128 or w + 8. Four weights of a row of W, the same in all lanes, meet
// four columns of the high bytes and of the low ones: two multiply-adds for each weight broadcast.
// What the offset of the weights counts too much is known before W is, from the sums of x; a
// group's sums begin with it taken away. All of it is exact: a sum is below 32 * 255 * 32767 <
// 2^31.
#include <atomic>

#include "metala/ops/linear/linear_vnni-inl.h"

#if defined(__x86_64__)
namespace metala::linear::cpu::vnni {
namespace {

constexpr std::size_t block_depth = 1024;  // columns of a panel that stay in the first-level cache
constexpr std::size_t groups_of_block = block_depth / group;
constexpr std::size_t rows_of_tile =
    8;  // two sums of integers and one of floats each: 24 registers
constexpr std::size_t words_of_group = words_of(group);

// The weights of a pair of groups as unsigned bytes: the integers of q8 + 128, of q4 + 8.
template <DType type>
METALA_VNNI_INLINE __m512i unsigned_pair(const std::byte* integers) {
  if constexpr (type == DType::q8) {
    return _mm512_xor_si512(_mm512_loadu_si512(integers), _mm512_set1_epi8(-128));
  } else {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(integers));
    const __m512i halves =
        _mm512_inserti64x4(_mm512_castsi256_si512(both), _mm256_srli_epi16(both, 4), 1);
    return _mm512_ternarylogic_epi32(halves, _mm512_set1_epi8(15), _mm512_set1_epi8(8),
                                     low_bits_then_flip);
  }
}

// sums[r][lane] (+)= sum over groups of scales[r][group] times the sum of w[r][k] x[k][lane].
template <DType type>
METALA_VNNI_INLINE void add_tile(const std::uint8_t* w, const float* scales, const std::int32_t* x,
                                 std::size_t groups, const Ahead& ahead, bool first, float* sums,
                                 std::size_t stride) {
  constexpr std::size_t rows = rows_of_tile;
  __m512 total[rows];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < rows; ++r) {
    total[r] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + r * stride);
  }
  for (std::size_t g = 0; g < groups; ++g, w += group, x += words_of_group * width) {
    if (g * rows % groups < rows) ahead.fetch(g * rows / groups);
    const __m512i sum_of_x = _mm512_loadu_si512(x + (words_of_group - 1) * width);
    const __m512i too_much = _mm512_slli_epi32(sum_of_x, type == DType::q8 ? 7 : 3);
    __m512i high[rows], low[rows];
#pragma GCC unroll 8
    for (std::size_t r = 0; r < rows; ++r) {
      high[r] = _mm512_setzero_si512();
      low[r] = too_much;
    }
#pragma GCC unroll 8
    for (std::size_t k = 0; k < group / 4; ++k) {
      const __m512i x_high = _mm512_loadu_si512(x + 2 * k * width);
      const __m512i x_low = _mm512_loadu_si512(x + (2 * k + 1) * width);
#pragma GCC unroll 8
      for (std::size_t r = 0; r < rows; ++r) {
        std::int32_t four;
        std::memcpy(&four, w + r * block_depth + 4 * k, sizeof(four));
        const __m512i weights = _mm512_set1_epi32(four);
        high[r] = _mm512_dpbusd_epi32(high[r], weights, x_high);
        low[r] = _mm512_dpbusd_epi32(low[r], weights, x_low);
      }
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < rows; ++r) {
      const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[r], 8), low[r]);
      const __m512 scale = _mm512_set1_ps(scales[r * groups_of_block + g]);
      total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, total[r]);
    }
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < rows; ++r) _mm512_storeu_ps(sums + r * stride, total[r]);
}

// The weights and scales of the rows from `row` on; where there are too few, the last one again.
template <DType type>
METALA_VNNI_INLINE void unpack_tile(const WeightRows& w, std::size_t row, std::size_t k,
                                    std::size_t depth, std::uint8_t* weights, float* scales) {
  for (std::size_t r = 0; r < rows_of_tile; ++r) {
    const std::byte* from = w.row(std::min(row + r, w.count - 1));
    widen_scales(from, k / group, depth / group, scales + r * groups_of_block);
    const std::byte* integers = from + w.in / group * 2 + bytes_of_columns(type, k);
    for (std::size_t at = 0; at < depth; at += pair) {
      _mm512_store_si512(weights + r * block_depth + at,
                         unsigned_pair<type>(integers + bytes_of_columns(type, at)));
    }
  }
}

template <DType type>
METALA_VNNI void sums_of_blocks(const WeightRows& w, const WeightRows& next, const Panels& x,
                                float* sums) {
  constexpr std::size_t rows = rows_of_tile;
  alignas(64) std::uint8_t weights[rows * block_depth];
  alignas(64) float scales[rows * groups_of_block];
  const std::size_t stride = x.count * x.lanes;
  for (std::size_t k = 0; k < w.in; k += block_depth) {
    const std::size_t depth = std::min(block_depth, w.in - k);
    for (std::size_t r = 0; r < w.count; r += rows) {
      unpack_tile<type>(w, r, k, depth, weights, scales);
      for (std::size_t p = 0; p < x.count; ++p) {
        add_tile<type>(weights, scales, x.at(p, words_of(k)), depth / group,
                       p == 0 ? ahead_of(w, next, rows, block_depth, r, k) : Ahead(), k == 0,
                       sums + r * stride + p * x.lanes, stride);
      }
    }
  }
}

// Lanes past `count` are zero.
METALA_VNNI void lay_out_groups(const std::int16_t* rows, std::size_t stride, std::size_t count,
                                std::size_t groups, std::int32_t* to) {
  const __m512i ones = _mm512_set1_epi8(1);
  const __m256i index = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                           _mm256_set1_epi32(static_cast<int>(stride / 4)));
  const __mmask16 live = first_lanes(count);
  const auto first = static_cast<__mmask8>(live), second = static_cast<__mmask8>(live >> 8);
  const __m512i none = _mm512_setzero_si512();
  for (std::size_t g = 0; g < groups; ++g, to += words_of_group * width) {
    __m512i sum = none, sum_of_high = none;
    for (std::size_t k = 0; k < group / 4; ++k, rows += 4) {
      const __m512i upper = _mm512_mask_i32gather_epi64(none, first, index, rows, 8);
      const __m512i lower = second == 0 ? none
                                        : _mm512_mask_i32gather_epi64(none, second, index,
                                                                      rows + width / 2 * stride, 8);
      __m256i high[2], low[2];
      const __m512i both[2] = {upper, lower};
      for (std::size_t h = 0; h < 2; ++h) {
        const __m512i rounded =
            _mm512_srai_epi16(_mm512_add_epi16(both[h], _mm512_set1_epi16(128)), 8);
        high[h] = _mm512_cvtepi16_epi8(rounded);
        low[h] = _mm512_cvtepi16_epi8(_mm512_sub_epi16(both[h], _mm512_slli_epi16(rounded, 8)));
      }
      const __m512i all_high = _mm512_inserti64x4(_mm512_castsi256_si512(high[0]), high[1], 1);
      const __m512i all_low = _mm512_inserti64x4(_mm512_castsi256_si512(low[0]), low[1], 1);
      _mm512_storeu_si512(to + 2 * k * width, all_high);
      _mm512_storeu_si512(to + (2 * k + 1) * width, all_low);
      sum_of_high = _mm512_dpbusd_epi32(sum_of_high, ones, all_high);
      sum = _mm512_dpbusd_epi32(sum, ones, all_low);
    }
    sum = _mm512_add_epi32(sum, _mm512_slli_epi32(sum_of_high, 8));
    _mm512_storeu_si512(to + (words_of_group - 1) * width, _mm512_sub_epi32(none, sum));
  }
}

bool supported() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("fma");
}

std::atomic<bool>& enabled() {
  static std::atomic<bool> on{supported()};
  return on;
}

}  // namespace

bool available() {
  return enabled().load(std::memory_order_relaxed);
}

void set_available(bool on) {
  enabled().store(on && supported(), std::memory_order_relaxed);
}

void lay_out(const std::int16_t* rows, std::size_t stride, std::size_t count, std::size_t columns,
             std::int32_t* to) {
  lay_out_groups(rows, stride, count, columns / group, to);
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
void lay_out(const std::int16_t*, std::size_t, std::size_t, std::size_t, std::int32_t*) {}
void block_of_integers(const WeightRows&, const WeightRows&, const Panels&, float*) {}
}  // namespace metala::linear::cpu::vnni
#endif
