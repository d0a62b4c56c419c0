// Few rows of x with W in blocks of 8-bit or 4-bit integers (base/quantized.h): x is rounded to
// 16-bit integers, so a group of 32 weights meets it in one or two integer multiply-adds of a
// vector, and only its sum becomes a float. Four rows of x share the unpacking of a row of W.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/linear/linear_quantized.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "metala/base/quantized.h"
#include "metala/base/threads.h"
#include "metala/ops/linear/linear_cpu.h"
#include "metala/ops/linear/linear_weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metala::linear::cpu::HWY_NAMESPACE {
using Words = hn::RepartitionToWide<Shorts>;
using WordFloats = hn::RebindToFloat<Words>;

// The products of a vector of integers with one of x, as partial sums.
template <class V>
HWY_INLINE auto products(V w, const std::int16_t* x) {
#if HWY_TARGET == HWY_SCALAR
  const std::int32_t product =
      static_cast<std::int32_t>(hn::GetLane(w)) * static_cast<std::int32_t>(*x);
  return hn::Set(hn::ScalableTag<float>(), static_cast<float>(product));
#else
  auto rest = hn::Zero(Words());
  const auto sum =
      hn::ReorderWidenMulAccumulate(Words(), w, hn::LoadU(Shorts(), x), hn::Zero(Words()), rest);
  return hn::ConvertTo(WordFloats(), hn::Add(sum, rest));
#endif
}

// Columns are worked on in segments whose scales fit a small buffer.
constexpr std::size_t segment_groups = 256;

// How far ahead of what is worked on a row is fetched; rows follow each other in memory.
constexpr std::size_t prefetch_bytes = 4096;

#if HWY_TARGET == HWY_SCALAR
using Sums = hn::ScalableTag<float>;
#else
using Sums = WordFloats;
#endif

// Two rows of W far apart, for the prefetcher's sake (linear_streaming.cpp).
template <class Unpack>
HWY_INLINE void dots_of_two_rows(const PackedRow& row, const PackedRow& other,
                                 const std::int16_t* x, std::size_t n, float* dot,
                                 float* other_dot) {
  float scales[segment_groups], other_scales[segment_groups];
  auto s0 = hn::Zero(Sums()), s1 = hn::Zero(Sums()), t0 = hn::Zero(Sums()), t1 = hn::Zero(Sums());
  for (std::size_t first = 0; first < n / group; first += segment_groups) {
    const std::size_t count = std::min(segment_groups, n / group - first);
    widen_scales(row, first, count, scales);
    widen_scales(other, first, count, other_scales);
    for (std::size_t g = 0; g < count; g += 2) {
      const std::size_t p = (first + g) / 2;
      hwy::Prefetch(row.integers + p * Unpack::bytes_of_pair + prefetch_bytes);
      hwy::Prefetch(other.integers + p * Unpack::bytes_of_pair + prefetch_bytes);
      for (std::size_t j = 0; j < group; j += hn::Lanes(Shorts())) {
        const std::int16_t* x0 = x + p * pair + j;
        auto low = hn::Zero(Shorts()), high = hn::Zero(Shorts());
        Unpack::both(row, p, j, low, high);
        s0 = hn::MulAdd(products(low, x0), hn::Set(Sums(), scales[g]), s0);
        s1 = hn::MulAdd(products(high, x0 + group), hn::Set(Sums(), scales[g + 1]), s1);
        Unpack::both(other, p, j, low, high);
        t0 = hn::MulAdd(products(low, x0), hn::Set(Sums(), other_scales[g]), t0);
        t1 = hn::MulAdd(products(high, x0 + group), hn::Set(Sums(), other_scales[g + 1]), t1);
      }
    }
  }
  *dot = hn::GetLane(hn::SumOfLanes(Sums(), hn::Add(s0, s1)));
  *other_dot = hn::GetLane(hn::SumOfLanes(Sums(), hn::Add(t0, t1)));
}

template <class Unpack>
HWY_INLINE void four_dots_of_row(const PackedRow& row, const std::int16_t* x, std::size_t n,
                                 float* dots) {
  float scales[segment_groups];
  const std::int16_t* x0 = x;
  const std::int16_t* x1 = x0 + n;
  const std::int16_t* x2 = x1 + n;
  const std::int16_t* x3 = x2 + n;
  auto s0 = hn::Zero(Sums()), s1 = hn::Zero(Sums()), s2 = hn::Zero(Sums()), s3 = hn::Zero(Sums());
  for (std::size_t first = 0; first < n / group; first += segment_groups) {
    const std::size_t count = std::min(segment_groups, n / group - first);
    widen_scales(row, first, count, scales);
    for (std::size_t g = 0; g < count; g += 2) {
      const std::size_t p = (first + g) / 2;
      const auto scale0 = hn::Set(Sums(), scales[g]);
      const auto scale1 = hn::Set(Sums(), scales[g + 1]);
      for (std::size_t j = 0; j < group; j += hn::Lanes(Shorts())) {
        auto low = hn::Zero(Shorts()), high = hn::Zero(Shorts());
        Unpack::both(row, p, j, low, high);
        const std::size_t at = p * pair + j;
        s0 = hn::MulAdd(products(low, x0 + at), scale0, s0);
        s1 = hn::MulAdd(products(low, x1 + at), scale0, s1);
        s2 = hn::MulAdd(products(low, x2 + at), scale0, s2);
        s3 = hn::MulAdd(products(low, x3 + at), scale0, s3);
        s0 = hn::MulAdd(products(high, x0 + at + group), scale1, s0);
        s1 = hn::MulAdd(products(high, x1 + at + group), scale1, s1);
        s2 = hn::MulAdd(products(high, x2 + at + group), scale1, s2);
        s3 = hn::MulAdd(products(high, x3 + at + group), scale1, s3);
      }
    }
  }
  dots[0] = hn::GetLane(hn::SumOfLanes(Sums(), s0));
  dots[1] = hn::GetLane(hn::SumOfLanes(Sums(), s1));
  dots[2] = hn::GetLane(hn::SumOfLanes(Sums(), s2));
  dots[3] = hn::GetLane(hn::SumOfLanes(Sums(), s3));
}

template <class Unpack>
HWY_INLINE void dots_of_rows(const PackedRow& row, const PackedRow& other, const std::int16_t* x,
                             std::size_t rows, std::size_t n, float* dots, float* other_dots) {
  std::size_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    four_dots_of_row<Unpack>(row, x + r * n, n, dots + r);
    four_dots_of_row<Unpack>(other, x + r * n, n, other_dots + r);
  }
  for (; r < rows; ++r) {
    dots_of_two_rows<Unpack>(row, other, x + r * n, n, dots + r, other_dots + r);
  }
}

template <class Unpack>
HWY_INLINE void stream_packed(const WeightRows& w, const std::int16_t* x, std::size_t rows,
                              const float* steps, const Results& results) {
  const std::size_t half = (w.count + 1) / 2;
  for (std::size_t o = 0; o < half; ++o) {
    const std::size_t other = o + half < w.count ? o + half : o;  // the middle of an odd count
    float dots[streaming_rows], other_dots[streaming_rows];
    dots_of_rows<Unpack>(packed_row(w.row(o), w.in), packed_row(w.row(other), w.in), x, rows, w.in,
                         dots, other_dots);
    for (std::size_t n = 0; n < rows; ++n) {
      results.put(n, o, steps[n] * dots[n]);
      if (other != o) results.put(n, other, steps[n] * other_dots[n]);
    }
  }
}

void stream_integers(const WeightRows& w, const std::int16_t* x, std::size_t rows,
                     const float* steps, const Results& results) {
  if (w.type == DType::q8) return stream_packed<Unpack8>(w, x, rows, steps, results);
  stream_packed<Unpack4>(w, x, rows, steps, results);
}

// x = step * to; returns step.
float round_row(const float* x, std::size_t n, std::int16_t* to) {
  constexpr float most = 32639;  // linear_cpu.h
  const Floats d;
  auto largest_of = hn::Zero(d), zero_of = hn::Zero(d);  // 0 * x is NaN for what is not finite
  const auto look = [&](auto v) {
    largest_of = hn::Max(largest_of, hn::Abs(v));
    zero_of = hn::MulAdd(hn::Zero(d), v, zero_of);
  };
  vector::HWY_NAMESPACE::for_lanes(n, [&](auto lanes) { look(lanes.load(x)); });
  const float largest = hn::GetLane(hn::MaxOfLanes(d, largest_of));
  const float zero = sum_of(zero_of);
  const float inverse = largest > 0 ? most / largest : 0;
  if (!(zero == 0) || !std::isfinite(inverse)) {
    std::fill_n(to, n, std::int16_t{0});
    return zero == 0 ? 0 : zero;  // a row of subnormals counts as zero
  }
  const std::size_t width = hn::Lanes(d);
  const auto factor = hn::Set(d, inverse);
  const hn::Rebind<std::int16_t, Floats> shorts;
  std::size_t at = 0;
  for (; at + width <= n; at += width) {
    const auto nearest = hn::NearestInt(hn::Mul(hn::LoadU(d, x + at), factor));
    hn::StoreU(hn::DemoteTo(shorts, nearest), shorts, to + at);
  }
  for (; at < n; ++at) to[at] = static_cast<std::int16_t>(std::lrintf(x[at] * inverse));
  return largest / most;
}

}  // namespace metala::linear::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::linear::cpu {
HWY_EXPORT(stream_integers);
HWY_EXPORT(round_row);

void stream_integers(const WeightRows& w, const RoundedRows& x, const Results& results) {
  HWY_DYNAMIC_DISPATCH(stream_integers)
  (w, x.rows.get(), x.steps.size(), x.steps.data(), results);
}

RoundedRows rounded(const Tensor& x) {
  const std::int64_t rows = x.size(0), n = x.size(1);
  RoundedRows to{hwy::AllocateAligned<std::int16_t>(static_cast<std::size_t>(rows * n)),
                 static_cast<std::size_t>(n), std::vector<float>(static_cast<std::size_t>(rows))};
  const auto round = HWY_DYNAMIC_DISPATCH(round_row);
  parallel_ranges(rows, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      to.steps[static_cast<std::size_t>(r)] = round(
          x.data<float>() + r * x.stride(0), static_cast<std::size_t>(n), to.rows.get() + r * n);
    }
  });
  return to;
}

}  // namespace metala::linear::cpu
#endif
