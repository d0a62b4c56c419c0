// What both forms with VNNI share: the instructions that functions are compiled for, and scales.
//
// Functions carry the instructions that they are compiled for, and lambdas would not.
#pragma once

#include "metala/ops/linear/linear_vnni_cpu.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 warns of its own intrinsics, which begin with values left undefined (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cstring>

#define METALA_VNNI \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,fma,f16c")))
#define METALA_VNNI_INLINE METALA_VNNI __attribute__((always_inline)) inline

namespace metala::linear::cpu::vnni {

constexpr std::size_t group = quantized::group;
constexpr std::size_t pair = quantized::multiple;
constexpr std::size_t width = lanes;  // of 32 bits, of a vector

// For _mm512_ternarylogic_epi32(a, b, c, .): 4-bit integers in two's complement plus 8.
constexpr int low_bits_then_flip = 0x6a;  // (a & b) ^ c

METALA_VNNI_INLINE __mmask16 first_lanes(std::size_t count) {
  return count >= width ? __mmask16{0xffff} : static_cast<__mmask16>((1u << count) - 1);
}

// The scales of a row's groups from `first` on, `count` of them, as floats.
METALA_VNNI_INLINE void widen_scales(const std::byte* row, std::size_t first, std::size_t count,
                                     float* to) {
  const std::byte* from = row + 2 * first;
  for (std::size_t at = 0; at < count; at += width) {
    const __mmask16 live = first_lanes(count - at);
    const __m256i halves = _mm256_maskz_loadu_epi16(live, from + 2 * at);
    _mm512_mask_storeu_ps(to + at, live, _mm512_cvtph_ps(halves));
  }
}

}  // namespace metala::linear::cpu::vnni
#endif
