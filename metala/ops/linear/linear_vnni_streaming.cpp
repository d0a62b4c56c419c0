// Few rows of x with q4 weights on processors with AVX-512 VNNI.
#include "metala/ops/linear/linear_vnni-inl.h"

#include <cstring>

#if defined(__x86_64__)
namespace metala::linear::cpu::vnni {
namespace {

// The integers of a pair of groups from their 32 bytes, as w + 8: of every four bytes first the low
// halves, then the high ones, so that even lanes of 32 bits are of the first group, odd ones of the
// second.
METALA_VNNI_INLINE __m512i unpack_pair(const std::byte* integers) {
  const __m512i twice =
      _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(integers)));
  // The bits at which the bytes of a lane of 64 begin: bytes 0 to 3 and the same 4 bits on; in the
  // upper half bytes 4 to 7.
  const __m512i bits = _mm512_inserti64x4(_mm512_set1_epi64(0x1c140c0418100800),
                                          _mm256_set1_epi64x(0x3c342c2438302820), 1);
  const __m512i halves = _mm512_multishift_epi64_epi8(bits, twice);
  return _mm512_ternarylogic_epi32(halves, _mm512_set1_epi8(15), _mm512_set1_epi8(8),
                                   low_bits_then_flip);
}

constexpr std::size_t segment_groups = 256;  // whose scales fit a small buffer
constexpr std::size_t prefetch_bytes = 2048;

// A pair of groups of a row of W, with its two scales, and of `rows` of x: added to sums.
template <std::size_t rows>
METALA_VNNI_INLINE void add_pair(const std::byte* integers, const float* scales,
                                 const std::int8_t* high, const std::int8_t* low, std::size_t n,
                                 __m512* sums) {
  const __m512i weights = unpack_pair(integers);
  double both;
  std::memcpy(&both, scales, sizeof(both));
  const __m512 scale = _mm512_castpd_ps(_mm512_set1_pd(both));
  for (std::size_t r = 0; r < rows; ++r) {
    const __m512i none = _mm512_setzero_si512();
    const __m512i of_high = _mm512_dpbusd_epi32(none, weights, _mm512_loadu_si512(high + r * n));
    const __m512i of_low = _mm512_dpbusd_epi32(none, weights, _mm512_loadu_si512(low + r * n));
    const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(of_high, 8), of_low);
    sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, sums[r]);
  }
}

// Dots of two rows of W, which lie far apart for the prefetcher's sake (linear_streaming.cpp), with
// `rows` of x. Two sums for each, even and odd pairs, hide the latency of an addition.
template <std::size_t rows>
METALA_VNNI_INLINE void dots_of_two_rows(const std::byte* const* w, std::size_t n,
                                         const std::int8_t* high, const std::int8_t* low,
                                         const float* eights, float* dots) {
  alignas(64) float scales0[segment_groups], scales1[segment_groups];
  __m512 even0[rows], even1[rows], odd0[rows], odd1[rows];
  for (std::size_t r = 0; r < rows; ++r) {
    even0[r] = even1[r] = odd0[r] = odd1[r] = _mm512_setzero_ps();
  }
  for (std::size_t first = 0; first < n / group; first += segment_groups) {
    const std::size_t count = std::min(segment_groups, n / group - first);
    widen_scales(w[0], first, count, scales0);
    widen_scales(w[1], first, count, scales1);
    for (std::size_t g = 0; g < count; g += width) {
      const __mmask16 live = first_lanes(count - g);
      for (std::size_t r = 0; r < rows; ++r) {
        const __m512 eight = _mm512_maskz_loadu_ps(live, eights + r * (n / group) + first + g);
        odd0[r] = _mm512_fnmadd_ps(_mm512_maskz_loadu_ps(live, scales0 + g), eight, odd0[r]);
        odd1[r] = _mm512_fnmadd_ps(_mm512_maskz_loadu_ps(live, scales1 + g), eight, odd1[r]);
      }
    }
    const std::byte* integers0 = w[0] + n / group * 2 + first / 2 * group;
    const std::byte* integers1 = w[1] + n / group * 2 + first / 2 * group;
    const std::int8_t* x_high = high + first * group;
    const std::int8_t* x_low = low + first * group;
    std::size_t p = 0;
    for (; p + 2 <= count / 2; p += 2) {
      __builtin_prefetch(integers0 + p * group + prefetch_bytes);
      __builtin_prefetch(integers1 + p * group + prefetch_bytes);
      const std::size_t at = p * pair;
      add_pair<rows>(integers0 + p * group, scales0 + 2 * p, x_high + at, x_low + at, n, even0);
      add_pair<rows>(integers1 + p * group, scales1 + 2 * p, x_high + at, x_low + at, n, even1);
      const std::size_t next = at + pair;
      add_pair<rows>(integers0 + p * group + group, scales0 + 2 * p + 2, x_high + next,
                     x_low + next, n, odd0);
      add_pair<rows>(integers1 + p * group + group, scales1 + 2 * p + 2, x_high + next,
                     x_low + next, n, odd1);
    }
    if (p < count / 2) {
      const std::size_t at = p * pair;
      add_pair<rows>(integers0 + p * group, scales0 + 2 * p, x_high + at, x_low + at, n, even0);
      add_pair<rows>(integers1 + p * group, scales1 + 2 * p, x_high + at, x_low + at, n, even1);
    }
  }
  for (std::size_t r = 0; r < rows; ++r) {
    dots[r] = _mm512_reduce_add_ps(_mm512_add_ps(even0[r], odd0[r]));
    dots[rows + r] = _mm512_reduce_add_ps(_mm512_add_ps(even1[r], odd1[r]));
  }
}

template <std::size_t rows>
METALA_VNNI void stream_rows(const WeightRows& w, const BytePlanes& x, const Results& results) {
  const auto* high = static_cast<const std::int8_t*>(x.high.raw());
  const auto* low = static_cast<const std::int8_t*>(x.low.raw());
  const std::size_t half = (w.count + 1) / 2;
  for (std::size_t o = 0; o < half; ++o) {
    const std::size_t other = o + half < w.count ? o + half : o;  // the middle of an odd count
    const std::byte* const two[2] = {w.row(o), w.row(other)};
    float dots[2 * rows];
    dots_of_two_rows<rows>(two, w.in, high, low, x.eights.data<float>(), dots);
    for (std::size_t n = 0; n < rows; ++n) {
      results.put(n, o, x.steps[n] * dots[n]);
      if (other != o) results.put(n, other, x.steps[n] * dots[rows + n]);
    }
  }
}

METALA_VNNI void split_rows(const std::int16_t* from, std::size_t pairs, std::int8_t* high,
                            std::int8_t* low, float* eights) {
  // Lane l of a pair is that of group l % 2 which holds its bytes 8 (l % 8 / 2) + 4 (l / 8) and on
  // (unpack_pair).
  const __m512i order = _mm512_setr_epi32(0, 8, 2, 10, 4, 12, 6, 14, 1, 9, 3, 11, 5, 13, 7, 15);
  for (std::size_t p = 0; p < pairs; ++p) {
    __m256i upper[2], lower[2];
    for (std::size_t g = 0; g < 2; ++g) {
      const __m512i x = _mm512_loadu_si512(from + p * pair + g * group);
      const __m512i rounded = _mm512_srai_epi16(_mm512_add_epi16(x, _mm512_set1_epi16(128)), 8);
      upper[g] = _mm512_cvtepi16_epi8(rounded);
      lower[g] = _mm512_cvtepi16_epi8(_mm512_sub_epi16(x, _mm512_slli_epi16(rounded, 8)));
      const __m512i sums = _mm512_madd_epi16(x, _mm512_set1_epi16(1));
      eights[2 * p + g] = 8 * static_cast<float>(_mm512_reduce_add_epi32(sums));
    }
    const __m512i both_upper = _mm512_inserti64x4(_mm512_castsi256_si512(upper[0]), upper[1], 1);
    const __m512i both_lower = _mm512_inserti64x4(_mm512_castsi256_si512(lower[0]), lower[1], 1);
    _mm512_storeu_si512(high + p * pair, _mm512_permutexvar_epi32(order, both_upper));
    _mm512_storeu_si512(low + p * pair, _mm512_permutexvar_epi32(order, both_lower));
  }
}

}  // namespace

BytePlanes planes_of(const RoundedRows& x) {
  const auto rows = static_cast<std::int64_t>(x.steps.size());
  const auto in = static_cast<std::int64_t>(x.width);
  BytePlanes planes = {Tensor::uninitialized({rows, in}, DType::u8),
                       Tensor::uninitialized({rows, in}, DType::u8),
                       Tensor::uninitialized({rows, in / quantized::group}), x.steps.data()};
  auto* high = static_cast<std::int8_t*>(planes.high.raw());
  auto* low = static_cast<std::int8_t*>(planes.low.raw());
  float* eights = planes.eights.data<float>();
  split_rows(x.rows.get(), x.steps.size() * x.width / pair, high, low, eights);
  return planes;
}

void stream_q4(const WeightRows& w, const BytePlanes& x, const Results& results) {
  switch (x.high.size(0)) {
    case 1:
      return stream_rows<1>(w, x, results);
    case 2:
      return stream_rows<2>(w, x, results);
    case 3:
      return stream_rows<3>(w, x, results);
    default:
      return stream_rows<4>(w, x, results);
  }
}

}  // namespace metala::linear::cpu::vnni
#else
namespace metala::linear::cpu::vnni {
BytePlanes planes_of(const RoundedRows&) {
  return {};
}
void stream_q4(const WeightRows&, const BytePlanes&, const Results&) {}
}  // namespace metala::linear::cpu::vnni
#endif
