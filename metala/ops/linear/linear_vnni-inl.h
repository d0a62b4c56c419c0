// What both forms with VNNI share: the instructions that functions are compiled for, and scales.
#pragma once

#include "metala/ops/linear/linear_avx512-inl.h"
#include "metala/ops/linear/linear_vnni_cpu.h"

#if defined(__x86_64__)
#define METALA_VNNI \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,fma,f16c")))
#define METALA_VNNI_INLINE METALA_VNNI __attribute__((always_inline)) inline

namespace metala::linear::cpu::vnni {

constexpr std::size_t group = quantized::group;
constexpr std::size_t pair = quantized::multiple;
using avx512::first_lanes;
using avx512::width;

// The scales of a row's groups from `first` on as floats, zero in lanes that are not live.
METALA_VNNI_INLINE __m512 scales_of(const std::byte* row, std::size_t first, __mmask16 live) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(live, row + 2 * first));
}

// 64 integers of q8 as unsigned bytes.
METALA_VNNI_INLINE __m512i plus_128(const std::byte* integers) {
  return _mm512_xor_si512(_mm512_loadu_si512(integers), _mm512_set1_epi8(-128));
}

// 64 integers of q4 as unsigned bytes: those whose 4 bits end the bytes.
METALA_VNNI_INLINE __m512i plus_8(__m512i halves) {
  constexpr int low_bits_then_flip = 0x6a;  // (a & b) ^ c
  return _mm512_ternarylogic_epi32(halves, _mm512_set1_epi8(15), _mm512_set1_epi8(8),
                                   low_bits_then_flip);
}

}  // namespace metala::linear::cpu::vnni
#endif
