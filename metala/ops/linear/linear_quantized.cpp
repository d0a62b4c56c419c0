// Few rows of x with W in blocks of 8-bit or 4-bit integers (base/quantized.h): x is rounded to
// bytes with a step for each group of 32, so a group of weights meets it in integer multiply-adds
// of 16 bits, and only its sum becomes a float. Four rows of x share the unpacking of a row of W.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/linear/linear_quantized.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "metala/base/quantized.h"
#include "metala/base/threads.h"
#include "metala/ops/linear/linear_cpu.h"
#include "metala/ops/linear/linear_weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metala::linear::cpu::HWY_NAMESPACE {
#if HWY_TARGET == HWY_SCALAR
using Words = hn::ScalableTag<std::int32_t>;
#else
using Words = hn::RepartitionToWide<Shorts>;
#endif
using Sums = hn::RebindToFloat<Words>;

using Word = hn::Vec<Words>;

// Adds the products of a vector of integers with one of x, as partial sums.
template <class V>
HWY_INLINE Word add_products(V w, const std::int16_t* x, Word sum) {
#if HWY_TARGET == HWY_SCALAR
  const std::int32_t product =
      static_cast<std::int32_t>(hn::GetLane(w)) * static_cast<std::int32_t>(*x);
  return hn::Add(sum, hn::Set(Words(), product));
#else
  auto rest = hn::Zero(Words());
  sum = hn::ReorderWidenMulAccumulate(Words(), w, hn::LoadU(Shorts(), x), sum, rest);
  return hn::Add(sum, rest);
#endif
}

// The sum of a group becomes floats: a + factor * sum.
HWY_INLINE hn::Vec<Sums> add_group(Word sum, float factor, hn::Vec<Sums> a) {
  return hn::MulAdd(hn::ConvertTo(Sums(), sum), hn::Set(Sums(), factor), a);
}

// Columns are worked on in segments whose scales fit a small buffer.
constexpr std::size_t segment_groups = 128;

// How far ahead of what is worked on a row is fetched; rows follow each other in memory.
constexpr std::size_t prefetch_bytes = 4096;

// The scales of `count` groups of a row times the steps of x.
HWY_INLINE void factors_of(const PackedRow& row, const float* steps, std::size_t first,
                           std::size_t count, float* to) {
  widen_scales(row, first, count, to);
  for (std::size_t g = 0; g < count; ++g) to[g] *= steps[first + g];
}

// Two rows of W far apart, for the prefetcher's sake (linear_streaming.cpp). Here and below sums
// are named one by one: GCC 12 keeps arrays of vectors in memory.
template <class Unpack>
HWY_INLINE void dots_of_two_rows(const PackedRow& row, const PackedRow& other,
                                 const std::int16_t* x, const float* steps, std::size_t n,
                                 float* dot, float* other_dot) {
  float factors[segment_groups], other_factors[segment_groups];
  auto s0 = hn::Zero(Sums()), s1 = s0, t0 = s0, t1 = s0;
  for (std::size_t first = 0; first < n / group; first += segment_groups) {
    const std::size_t count = std::min(segment_groups, n / group - first);
    factors_of(row, steps, first, count, factors);
    factors_of(other, steps, first, count, other_factors);
    for (std::size_t g = 0; g < count; g += 2) {
      const std::size_t p = (first + g) / 2;
      hwy::Prefetch(row.integers + p * Unpack::bytes_of_pair + prefetch_bytes);
      hwy::Prefetch(other.integers + p * Unpack::bytes_of_pair + prefetch_bytes);
      auto a0 = hn::Zero(Words()), a1 = a0, b0 = a0, b1 = a0;
      for (std::size_t j = 0; j < group; j += hn::Lanes(Shorts())) {
        const std::int16_t* x0 = x + p * pair + j;
        auto low = hn::Zero(Shorts()), high = low;
        Unpack::both(row, p, j, low, high);
        a0 = add_products(low, x0, a0);
        a1 = add_products(high, x0 + group, a1);
        Unpack::both(other, p, j, low, high);
        b0 = add_products(low, x0, b0);
        b1 = add_products(high, x0 + group, b1);
      }
      s0 = add_group(a0, factors[g], s0);
      s1 = add_group(a1, factors[g + 1], s1);
      t0 = add_group(b0, other_factors[g], t0);
      t1 = add_group(b1, other_factors[g + 1], t1);
    }
  }
  *dot = hn::GetLane(hn::SumOfLanes(Sums(), hn::Add(s0, s1)));
  *other_dot = hn::GetLane(hn::SumOfLanes(Sums(), hn::Add(t0, t1)));
}

template <class Unpack>
HWY_INLINE void four_dots_of_row(const PackedRow& row, const std::int16_t* x, const float* steps,
                                 std::size_t n, float* dots) {
  float f0[segment_groups], f1[segment_groups], f2[segment_groups], f3[segment_groups];
  const std::int16_t* x1 = x + n;
  const std::int16_t* x2 = x1 + n;
  const std::int16_t* x3 = x2 + n;
  const std::size_t groups = n / group;
  auto s0 = hn::Zero(Sums()), s1 = s0, s2 = s0, s3 = s0;
  for (std::size_t first = 0; first < groups; first += segment_groups) {
    const std::size_t count = std::min(segment_groups, groups - first);
    factors_of(row, steps, first, count, f0);
    factors_of(row, steps + groups, first, count, f1);
    factors_of(row, steps + 2 * groups, first, count, f2);
    factors_of(row, steps + 3 * groups, first, count, f3);
    for (std::size_t g = 0; g < count; g += 2) {
#pragma GCC unroll 2
      for (std::size_t h = 0; h < 2; ++h) {  // one group at a time, for AVX2 has 16 registers
        auto a0 = hn::Zero(Words()), a1 = a0, a2 = a0, a3 = a0;
        for (std::size_t j = 0; j < group; j += hn::Lanes(Shorts())) {
          auto low = hn::Zero(Shorts()), high = low;
          Unpack::both(row, (first + g) / 2, j, low, high);
          const auto weights = h == 0 ? low : high;
          const std::size_t at = (first + g + h) * group + j;
          a0 = add_products(weights, x + at, a0);
          a1 = add_products(weights, x1 + at, a1);
          a2 = add_products(weights, x2 + at, a2);
          a3 = add_products(weights, x3 + at, a3);
        }
        s0 = add_group(a0, f0[g + h], s0);
        s1 = add_group(a1, f1[g + h], s1);
        s2 = add_group(a2, f2[g + h], s2);
        s3 = add_group(a3, f3[g + h], s3);
      }
    }
  }
  dots[0] = hn::GetLane(hn::SumOfLanes(Sums(), s0));
  dots[1] = hn::GetLane(hn::SumOfLanes(Sums(), s1));
  dots[2] = hn::GetLane(hn::SumOfLanes(Sums(), s2));
  dots[3] = hn::GetLane(hn::SumOfLanes(Sums(), s3));
}

template <class Unpack>
HWY_INLINE void stream_packed(const WeightRows& w, const std::int16_t* x, const RoundedRows& rows,
                              const Results& results) {
  const std::size_t half = (w.count + 1) / 2, n = w.in;
  for (std::size_t o = 0; o < half; ++o) {
    const std::size_t other = o + half < w.count ? o + half : o;  // the middle of an odd count
    const PackedRow row = packed_row(w.row(o), n), other_row = packed_row(w.row(other), n);
    float dots[streaming_rows], other_dots[streaming_rows];
    if (rows.count == 4) {
      four_dots_of_row<Unpack>(row, x, rows.steps(0), n, dots);
      four_dots_of_row<Unpack>(other_row, x, rows.steps(0), n, other_dots);
    } else {
      for (std::size_t r = 0; r < rows.count; ++r) {
        dots_of_two_rows<Unpack>(row, other_row, x + r * n, rows.steps(r), n, dots + r,
                                 other_dots + r);
      }
    }
    for (std::size_t r = 0; r < rows.count; ++r) {
      results.put(r, o, dots[r]);
      if (other != o) results.put(r, other, other_dots[r]);
    }
  }
}

void stream_integers(const WeightRows& w, const std::int16_t* x, const RoundedRows& rows,
                     const Results& results) {
  if (w.type == DType::q8) return stream_packed<Unpack8>(w, x, rows, results);
  stream_packed<Unpack4>(w, x, rows, results);
}

// As the reference's. Magnitudes are compared as the integers that their bits are: those of
// infinity and NaN are the largest.
void round_row(const float* x, std::size_t n, std::int8_t* to, float* steps) {
  constexpr std::int32_t infinity = 0x7f800000;
  const hn::CappedTag<float, group> d;
  const hn::RebindToSigned<decltype(d)> bits;
  const hn::Rebind<std::int8_t, decltype(d)> bytes;
  for (std::size_t g = 0; g < n / group; ++g, x += group, to += group) {
    auto most = hn::Zero(bits);
    for (std::size_t i = 0; i < group; i += hn::Lanes(d)) {
      most = hn::Max(most, hn::BitCast(bits, hn::Abs(hn::LoadU(d, x + i))));
    }
    most = hn::MaxOfLanes(bits, most);
    const float largest = hn::GetLane(hn::BitCast(d, most));
    const float inverse = largest > 0 ? 127 / largest : 0;
    const bool finite = hn::GetLane(most) < infinity;
    if (!finite || !std::isfinite(inverse)) {
      steps[g] = finite ? 0 : std::numeric_limits<float>::quiet_NaN();
      std::fill_n(to, group, std::int8_t{0});
      continue;
    }
    steps[g] = largest / 127;
    for (std::size_t i = 0; i < group; i += hn::Lanes(d)) {
      const auto nearest = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse)));
      hn::StoreU(hn::DemoteTo(bytes, nearest), bytes, to + i);
    }
  }
}

}  // namespace metala::linear::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::linear::cpu {
HWY_EXPORT(stream_integers);
HWY_EXPORT(round_row);

void stream_integers(const WeightRows& w, const std::int16_t* x, const RoundedRows& rows,
                     const Results& results) {
  HWY_DYNAMIC_DISPATCH(stream_integers)(w, x, rows, results);
}

void round_row(const float* x, std::size_t n, std::int8_t* to, float* steps) {
  HWY_DYNAMIC_DISPATCH(round_row)(x, n, to, steps);
}

RoundedRows rounded(const Tensor& x) {
  const auto rows = static_cast<std::size_t>(x.size(0)), n = static_cast<std::size_t>(x.size(1));
  const RoundedRows to = {Tensor::uninitialized({x.size(0), x.size(1)}, DType::u8),
                          Tensor::uninitialized({x.size(0), x.size(1) / quantized::group}), rows,
                          n};
  parallel_ranges(x.size(0), 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto r = static_cast<std::size_t>(i);
      round_row(x.data<float>() + i * x.stride(0), n, to.bytes(r), to.steps(r));
    }
  });
  return to;
}

}  // namespace metala::linear::cpu
#endif
