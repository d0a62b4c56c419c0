// What the forms for AVX-512 share whose lanes are eight rows of x by two rows of W.
//
// Functions carry the instructions that they are compiled for, and lambdas would not.
#pragma once

#include "metala/ops/linear/linear_blocks_cpu.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 warns of its own intrinsics, which begin with values left undefined (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <atomic>
#include <cstring>

#define METALA_AVX512_INLINE                                                        \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,fma,f16c"))) \
  __attribute__((always_inline)) inline

namespace metala::linear::cpu::avx512 {

constexpr std::size_t width = 16;     // lanes of 32 bits of a vector
constexpr std::size_t lane_rows = 8;  // of x, each in two neighbouring lanes, for two rows of W
constexpr std::size_t block_panels = block_lanes / lane_rows;

// Whether this processor has what functions here are compiled for.
inline bool supported() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

// A form that is used where the processor has it, unless a test wants the other one.
class Form {
 public:
  explicit Form(bool supported) : supported_(supported), on_(supported) {}
  bool on() const { return on_.load(std::memory_order_relaxed); }
  void set(bool on) { on_.store(on && supported_, std::memory_order_relaxed); }

 private:
  const bool supported_;
  std::atomic<bool> on_;
};

METALA_AVX512_INLINE __mmask16 first_lanes(std::size_t count) {
  return count >= width ? __mmask16{0xffff} : static_cast<__mmask16>((1u << count) - 1);
}

// The 16 words of a row of W and of the next, each beside its fellow: first those of the lower
// halves of all quarters, then of the upper ones.
METALA_AVX512_INLINE void interleave(__m512i a, __m512i b, void* to) {
  _mm512_store_si512(to, _mm512_unpacklo_epi32(a, b));
  _mm512_store_si512(static_cast<std::byte*>(to) + 64, _mm512_unpackhi_epi32(a, b));
}

// Which of the 16 pairs of lanes word i is.
constexpr std::size_t place_of(std::size_t i) {
  return i % 4 / 2 * 8 + i / 4 * 2 + i % 2;
}

// Eight words of each of eight rows of x as columns, each row in two lanes: to[c][2 n, 2 n + 1] is
// word c of row n.
METALA_AVX512_INLINE void transpose_words(const __m256i* rows, __m512i* to) {
  __m256i quads[2][4];  // of rows 0 to 3 and 4 to 7: word c and, in the upper half, word c + 4
  for (std::size_t h = 0; h < 2; ++h) {
    const __m256i* r = rows + 4 * h;
    const __m256i low01 = _mm256_unpacklo_epi32(r[0], r[1]);
    const __m256i low23 = _mm256_unpacklo_epi32(r[2], r[3]);
    const __m256i high01 = _mm256_unpackhi_epi32(r[0], r[1]);
    const __m256i high23 = _mm256_unpackhi_epi32(r[2], r[3]);
    quads[h][0] = _mm256_unpacklo_epi64(low01, low23);
    quads[h][1] = _mm256_unpackhi_epi64(low01, low23);
    quads[h][2] = _mm256_unpacklo_epi64(high01, high23);
    quads[h][3] = _mm256_unpackhi_epi64(high01, high23);
  }
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 16, 16, 17, 17, 18, 18, 19, 19);
  const __m512i upper = _mm512_add_epi32(twice, _mm512_set1_epi32(4));
  for (std::size_t c = 0; c < 4; ++c) {
    const __m512i a = _mm512_castsi256_si512(quads[0][c]), b = _mm512_castsi256_si512(quads[1][c]);
    to[c] = _mm512_permutex2var_epi32(a, twice, b);
    to[c + 4] = _mm512_permutex2var_epi32(a, upper, b);
  }
}

// The sums of four pairs of rows of W to where those of row n of x begin: to[n][2 i, 2 i + 1] =
// from[i][panel][2 n, 2 n + 1].
METALA_AVX512_INLINE void put_sums(const float (*from)[block_panels][width], std::size_t panel,
                                   float* to) {
  __m512d pairs[4];
  for (std::size_t i = 0; i < 4; ++i) pairs[i] = _mm512_load_pd(from[i][panel]);
  const __m512i lower = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i upper = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  for (std::size_t odd = 0; odd < 2; ++odd) {  // rows odd, odd + 2, odd + 4 and odd + 6 of x
    const __m512d first =
        odd == 0 ? _mm512_unpacklo_pd(pairs[0], pairs[1]) : _mm512_unpackhi_pd(pairs[0], pairs[1]);
    const __m512d second =
        odd == 0 ? _mm512_unpacklo_pd(pairs[2], pairs[3]) : _mm512_unpackhi_pd(pairs[2], pairs[3]);
    const __m512 rows[2] = {_mm512_castpd_ps(_mm512_permutex2var_pd(first, lower, second)),
                            _mm512_castpd_ps(_mm512_permutex2var_pd(first, upper, second))};
    for (std::size_t i = 0; i < 2; ++i) {
      float* const row = to + (odd + 4 * i) * block_rows;
      _mm256_storeu_ps(row, _mm512_castps512_ps256(rows[i]));
      _mm256_storeu_ps(row + 2 * block_rows, _mm512_extractf32x8_ps(rows[i], 1));
    }
  }
}

}  // namespace metala::linear::cpu::avx512
#endif
