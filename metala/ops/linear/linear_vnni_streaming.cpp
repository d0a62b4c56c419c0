// Few rows of x with weights in blocks on processors with AVX-512 VNNI.
#include "metala/ops/linear/linear_vnni-inl.h"

#include <cstring>

#if defined(__x86_64__)
namespace metala::linear::cpu::vnni {
namespace {

constexpr std::size_t segment_groups = 128;  // whose factors fit a small buffer

// How far ahead of what is worked on a row is fetched; rows follow each other in memory.
template <DType type>
constexpr std::size_t prefetch_bytes = type == DType::q8 ? 4096 : 2048;

// The integers of a pair of groups as unsigned bytes.
template <DType type>
METALA_VNNI_INLINE __m512i unpack_pair(const std::byte* integers) {
  if constexpr (type == DType::q8) return plus_128(integers);
  // From 32 bytes, as w + 8: of every four bytes first the low halves, then the high ones, so that
  // even lanes of 32 bits are of the first group, odd ones of the second.
  const __m512i twice =
      _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(integers)));
  // The bits at which the bytes of a lane of 64 begin: bytes 0 to 3 and the same 4 bits on; in the
  // upper half bytes 4 to 7.
  const __m512i bits = _mm512_inserti64x4(_mm512_set1_epi64(0x1c140c0418100800),
                                          _mm256_set1_epi64x(0x3c342c2438302820), 1);
  return plus_8(_mm512_multishift_epi64_epi8(bits, twice));
}

// The factors of a pair of groups in the lanes that hold their sums.
template <DType type>
METALA_VNNI_INLINE __m512 spread(const float* factors) {
  double both;
  std::memcpy(&both, factors, sizeof(both));
  const __m512 by_turns = _mm512_castpd_ps(_mm512_set1_pd(both));
  if constexpr (type == DType::q4) return by_turns;
  return _mm512_permutevar_ps(by_turns,
                              _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(1), 1));
}

// The scales of a row's groups from `first` on, times the steps of one of x.
METALA_VNNI_INLINE void factors_of(const std::byte* row, const float* steps, std::size_t first,
                                   std::size_t count, float* to) {
  for (std::size_t at = 0; at < count; at += width) {
    const __mmask16 live = first_lanes(count - at);
    const __m512 step = _mm512_maskz_loadu_ps(live, steps + first + at);
    _mm512_store_ps(to + at, _mm512_mul_ps(scales_of(row, first + at, live), step));
  }
}

// Pair p of the segment: two rows of W with `rows` of x, added to sums.
template <DType type, std::size_t rows>
METALA_VNNI_INLINE void add_pair(const std::byte* const* integers, std::size_t p,
                                 const float (*factors)[rows][segment_groups], const std::int8_t* x,
                                 const std::int32_t* begin, std::size_t n, __m512 (*sums)[rows]) {
#pragma GCC unroll 2
  for (std::size_t o = 0; o < 2; ++o) {
    const std::byte* from = integers[o] + bytes_of_columns(type, p * pair);
    if (p % (64 / bytes_of_columns(type, pair)) == 0) {
      __builtin_prefetch(from + prefetch_bytes<type>);
    }
    const __m512i weights = unpack_pair<type>(from);
#pragma GCC unroll 4
    for (std::size_t r = 0; r < rows; ++r) {
      const __m512i sum = _mm512_dpbusd_epi32(_mm512_loadu_si512(begin + r * (n / 4) + p * width),
                                              weights, _mm512_loadu_si512(x + r * n + p * pair));
      sums[o][r] =
          _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), spread<type>(factors[o][r] + 2 * p), sums[o][r]);
    }
  }
}

// Dots of two rows of W, which lie far apart for the prefetcher's sake (linear_streaming.cpp), with
// `rows` of x. Two sums for each, even and odd pairs, hide the latency of an addition.
template <DType type, std::size_t rows>
METALA_VNNI_INLINE void dots_of_two_rows(const std::byte* const* w, std::size_t n,
                                         const StreamedRows& x, float* dots) {
  alignas(64) float factors[2][rows][segment_groups];
  __m512 even[2][rows], odd[2][rows];
#pragma GCC unroll 2
  for (std::size_t o = 0; o < 2; ++o) {
#pragma GCC unroll 4
    for (std::size_t r = 0; r < rows; ++r) even[o][r] = odd[o][r] = _mm512_setzero_ps();
  }
  const std::size_t groups = n / group;
  for (std::size_t first = 0; first < groups; first += segment_groups) {
    const std::size_t count = std::min(segment_groups, groups - first);
    const std::byte* integers[2];
    for (std::size_t o = 0; o < 2; ++o) {
      integers[o] = w[o] + groups * 2 + bytes_of_columns(type, first * group);
      for (std::size_t r = 0; r < rows; ++r) {
        factors_of(w[o], x.steps + r * groups, first, count, factors[o][r]);
      }
    }
    const auto* bytes = static_cast<const std::int8_t*>(x.bytes.raw()) + first * group;
    const std::int32_t* begin = x.begin.data<std::int32_t>() + first * group / 4;
    std::size_t p = 0;
    for (; p + 2 <= count / 2; p += 2) {
      add_pair<type, rows>(integers, p, factors, bytes, begin, n, even);
      add_pair<type, rows>(integers, p + 1, factors, bytes, begin, n, odd);
    }
    if (p < count / 2) add_pair<type, rows>(integers, p, factors, bytes, begin, n, even);
  }
#pragma GCC unroll 2
  for (std::size_t o = 0; o < 2; ++o) {
#pragma GCC unroll 4
    for (std::size_t r = 0; r < rows; ++r) {
      dots[o * rows + r] = _mm512_reduce_add_ps(_mm512_add_ps(even[o][r], odd[o][r]));
    }
  }
}

template <DType type, std::size_t rows>
METALA_VNNI void stream_rows(const WeightRows& w, const StreamedRows& x, const Results& results) {
  const std::size_t half = (w.count + 1) / 2;
  for (std::size_t o = 0; o < half; ++o) {
    const std::size_t other = o + half < w.count ? o + half : o;  // the middle of an odd count
    const std::byte* const two[2] = {w.row(o), w.row(other)};
    float dots[2 * rows];
    dots_of_two_rows<type, rows>(two, w.in, x, dots);
    for (std::size_t n = 0; n < rows; ++n) {
      results.put(n, o, dots[n]);
      if (other != o) results.put(n, other, dots[rows + n]);
    }
  }
}

template <DType type>
void stream_typed(const WeightRows& w, const StreamedRows& x, const Results& results) {
  switch (x.bytes.size(0)) {
    case 1:
      return stream_rows<type, 1>(w, x, results);
    case 2:
      return stream_rows<type, 2>(w, x, results);
    case 3:
      return stream_rows<type, 3>(w, x, results);
    default:
      return stream_rows<type, 4>(w, x, results);
  }
}

template <DType type>
METALA_VNNI void order_rows(const std::int8_t* from, std::size_t pairs, std::int8_t* bytes,
                            std::int32_t* begin) {
  // Lane l of a pair is that of group l % 2 which holds its bytes 8 (l % 8 / 2) + 4 (l / 8) and on
  // (unpack_pair).
  const __m512i order = _mm512_setr_epi32(0, 8, 2, 10, 4, 12, 6, 14, 1, 9, 3, 11, 5, 13, 7, 15);
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(type == DType::q8 ? 128 : 8));
  const __m512i zero = _mm512_setzero_si512();
  for (std::size_t p = 0; p < pairs; ++p) {
    __m512i x = _mm512_loadu_si512(from + p * pair);
    if constexpr (type == DType::q4) x = _mm512_permutexvar_epi32(order, x);
    _mm512_storeu_si512(bytes + p * pair, x);
    const __m512i too_much = _mm512_dpbusd_epi32(zero, offset, x);
    _mm512_storeu_si512(begin + p * width, _mm512_sub_epi32(zero, too_much));
  }
}

}  // namespace

StreamedRows streamed(const RoundedRows& x, DType type) {
  const auto rows = static_cast<std::int64_t>(x.count), in = static_cast<std::int64_t>(x.width);
  StreamedRows to = {Tensor::uninitialized({rows, in}, DType::u8),
                     Tensor::uninitialized({rows, in / 4}, DType::i32), x.steps(0)};
  const auto order = type == DType::q8 ? order_rows<DType::q8> : order_rows<DType::q4>;
  order(x.bytes(0), x.count * x.width / pair, static_cast<std::int8_t*>(to.bytes.raw()),
        to.begin.data<std::int32_t>());
  return to;
}

void stream(const WeightRows& w, const StreamedRows& x, const Results& results) {
  if (w.type == DType::q8) return stream_typed<DType::q8>(w, x, results);
  stream_typed<DType::q4>(w, x, results);
}

}  // namespace metala::linear::cpu::vnni
#else
namespace metala::linear::cpu::vnni {
StreamedRows streamed(const RoundedRows&, DType) {
  return {};
}
void stream(const WeightRows&, const StreamedRows&, const Results&) {}
}  // namespace metala::linear::cpu::vnni
#endif
