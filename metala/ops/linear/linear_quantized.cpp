// Linear maps whose weights are blocks of 8-bit or 4-bit integers (base/quantized.h).
//
// Few rows: x is rounded to 16-bit integers once for each row (its error, 2^-16 of the row's
// largest element, is far below that of the weights), so a group of 32 weights meets it in one or
// two integer multiply-adds of a vector, and only its sum becomes a float. Four rows of x share the
// unpacking of a row of W.
// Many rows: see linear_blas.cpp, which widens panels with `widen_row` below.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/linear/linear_quantized.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "metala/base/quantized.h"
#include "metala/base/threads.h"
#include "metala/device/cpu/vector-inl.h"
#include "metala/ops/linear/linear_cpu.h"

HWY_BEFORE_NAMESPACE();
namespace metala::linear::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using vector::HWY_NAMESPACE::Floats;
using vector::HWY_NAMESPACE::sum_of;

constexpr std::size_t group = quantized::group;
constexpr std::size_t pair = 2 * group;  // the unit in which q4 interleaves its integers

#if HWY_TARGET == HWY_SCALAR
using Shorts = hn::ScalableTag<std::int16_t>;
#else
using Shorts = hn::CappedTag<std::int16_t, group>;
#endif
using Words = hn::RepartitionToWide<Shorts>;
using WordFloats = hn::RebindToFloat<Words>;
using Bytes = hn::Rebind<std::int8_t, Shorts>;

// One row of W.
struct PackedRow {
  const std::uint8_t* scales;
  const std::int8_t* integers;
};

HWY_INLINE PackedRow packed_row(const void* row, std::size_t n) {
  const auto* start = static_cast<const std::uint8_t*>(row);
  return {start, reinterpret_cast<const std::int8_t*>(start + n / group * 2)};
}

// The scales of `count` groups from `first` on, as floats.
HWY_INLINE void widen_scales(const PackedRow& row, std::size_t first, std::size_t count,
                             float* to) {
  const Floats d;
  const hn::Rebind<hwy::float16_t, Floats> halves;
  const auto* from = reinterpret_cast<const hwy::float16_t*>(row.scales) + first;
  const std::size_t width = hn::Lanes(d);
  std::size_t at = 0;
  for (; at + width <= count; at += width) {
    hn::StoreU(hn::PromoteTo(d, hn::LoadU(halves, from + at)), d, to + at);
  }
  for (; at < count; ++at) {
    const hn::CappedTag<float, 1> one;
    const hn::Rebind<hwy::float16_t, decltype(one)> half;
    hn::StoreU(hn::PromoteTo(one, hn::LoadU(half, from + at)), one, to + at);
  }
}

// Integers j .. j + lanes of both groups of pair p.
struct Unpack8 {
  template <class V>
  static HWY_INLINE void both(const PackedRow& row, std::size_t p, std::size_t j, V& low, V& high) {
    low = hn::PromoteTo(Shorts(), hn::LoadU(Bytes(), row.integers + p * pair + j));
    high = hn::PromoteTo(Shorts(), hn::LoadU(Bytes(), row.integers + p * pair + group + j));
  }
};

struct Unpack4 {
  template <class V>
  static HWY_INLINE void both(const PackedRow& row, std::size_t p, std::size_t j, V& low, V& high) {
    const auto bytes = hn::PromoteTo(Shorts(), hn::LoadU(Bytes(), row.integers + p * group + j));
    low = hn::ShiftRight<12>(hn::ShiftLeft<12>(bytes));
    high = hn::ShiftRight<4>(bytes);
  }
};

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

void dots_with_packed(const void* w0, const void* w1, DType type, const std::int16_t* x,
                      std::size_t rows, std::size_t n, float* dots0, float* dots1) {
  const PackedRow row = packed_row(w0, n);
  const PackedRow other = packed_row(w1, n);
  if (type == DType::q8) return dots_of_rows<Unpack8>(row, other, x, rows, n, dots0, dots1);
  return dots_of_rows<Unpack4>(row, other, x, rows, n, dots0, dots1);
}

template <class Unpack>
HWY_INLINE void widen_packed_row(const PackedRow& row, std::size_t n, float* to) {
  float scales[segment_groups];
  const hn::Rebind<std::int16_t, Floats> shorts;
  const hn::RebindToSigned<Floats> words;
  std::int16_t unpacked[pair];
  for (std::size_t first = 0; first < n / group; first += segment_groups) {
    const std::size_t count = std::min(segment_groups, n / group - first);
    widen_scales(row, first, count, scales);
    for (std::size_t g = 0; g < count; g += 2) {
      const std::size_t p = (first + g) / 2;
      for (std::size_t j = 0; j < group; j += hn::Lanes(Shorts())) {
        auto low = hn::Zero(Shorts()), high = hn::Zero(Shorts());
        Unpack::both(row, p, j, low, high);
        hn::StoreU(low, Shorts(), unpacked + j);
        hn::StoreU(high, Shorts(), unpacked + group + j);
      }
      for (std::size_t j = 0; j < pair; j += hn::Lanes(Floats())) {
        const auto q = hn::PromoteTo(words, hn::LoadU(shorts, unpacked + j));
        const auto scale = hn::Set(Floats(), scales[g + j / group]);
        hn::StoreU(hn::Mul(hn::ConvertTo(Floats(), q), scale), Floats(), to + p * pair + j);
      }
    }
  }
}

void widen_packed(const void* from, DType type, std::size_t n, float* to) {
  const PackedRow row = packed_row(from, n);
  if (type == DType::q8) return widen_packed_row<Unpack8>(row, n, to);
  return widen_packed_row<Unpack4>(row, n, to);
}

}  // namespace metala::linear::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::linear::cpu {
HWY_EXPORT(dots_with_packed);
HWY_EXPORT(widen_packed);

namespace {

const std::byte* row_of(const Tensor& t, std::int64_t row) {
  return static_cast<const std::byte*>(t.raw()) +
         bytes_of(t.dtype(), static_cast<std::size_t>(row * t.stride(0)));
}

// x = step * to; returns step, which is NaN when x holds a NaN or an infinity.
float round_row(const float* x, std::int64_t n, std::int16_t* to) {
  constexpr float most = 32767;
  float largest = 0;
  float zero = 0;  // 0 * x is NaN for what is not finite
  for (std::int64_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::fabs(x[i]));
    zero += 0 * x[i];
  }
  const float inverse = largest > 0 ? most / largest : 0;
  if (!(zero == 0) || !std::isfinite(inverse)) {
    std::fill_n(to, n, std::int16_t{0});
    return zero == 0 ? 0 : zero;  // a row of subnormals counts as zero
  }
  for (std::int64_t i = 0; i < n; ++i) {
    to[i] = static_cast<std::int16_t>(std::lrintf(x[i] * inverse));
  }
  return largest / most;
}

}  // namespace

void forward_quantized(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y,
                       bool accumulate) {
  constexpr std::int64_t most_rows = 64;
  const std::int64_t rows = x.size(0);
  const std::int64_t n = x.size(1);
  require(rows <= most_rows, "linear: {} rows for the streaming form; at most {}", rows, most_rows);
  float steps[most_rows];
  std::vector<std::int16_t> rounded(static_cast<std::size_t>(rows * n));
  for (std::int64_t r = 0; r < rows; ++r) {
    steps[r] = round_row(x.data<float>() + r * x.stride(0), n, rounded.data() + r * n);
  }
  const float* b = bias.defined() ? bias.data<float>() : nullptr;
  float* out = y.data<float>();
  const auto kernel = HWY_DYNAMIC_DISPATCH(dots_with_packed);
  parallel_row_pairs(weight, [&](std::int64_t o, std::int64_t other, int count) {
    float dots[2][most_rows];
    kernel(row_of(weight, o), row_of(weight, other), weight.dtype(), rounded.data(),
           static_cast<std::size_t>(rows), static_cast<std::size_t>(n), dots[0], dots[1]);
    for (int i = 0; i < count; ++i) {
      const std::int64_t at = i == 0 ? o : other;
      for (std::int64_t r = 0; r < rows; ++r) {
        float& target = out[r * y.stride(0) + at];
        const float value = steps[r] * dots[i][r] + (b == nullptr ? 0.0f : b[at]);
        target = accumulate ? target + value : value;
      }
    }
  });
}

void widen_quantized(const Tensor& from, Tensor to) {
  const auto kernel = HWY_DYNAMIC_DISPATCH(widen_packed);
  parallel_ranges(from.size(0), 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      kernel(row_of(from, n), from.dtype(), static_cast<std::size_t>(from.size(1)),
             to.data<float>() + n * to.stride(0));
    }
  });
}

}  // namespace metala::linear::cpu
#endif
