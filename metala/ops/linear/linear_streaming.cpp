// Linear maps of few rows, where the time is that of reading W once.
//
// Each thread owns a contiguous range of rows of W and reads it in order, which is what the
// hardware prefetchers follow best. Up to four rows of x share each load of W; more rows of x
// come back to a row of W while it is in the first-level cache.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/linear/linear_streaming.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "metala/base/threads.h"
#include "metala/device/cpu/vector-inl.h"
#include "metala/ops/linear/linear_cpu.h"

HWY_BEFORE_NAMESPACE();
namespace metala::linear::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using vector::HWY_NAMESPACE::Float;
using vector::HWY_NAMESPACE::Floats;
using vector::HWY_NAMESPACE::sum_of;

// A vector of weights as f32.
HWY_INLINE Float load_wide(const float* w) {
  return hn::LoadU(Floats(), w);
}

HWY_INLINE Float load_wide(const bf16* w) {
  const hn::Rebind<std::uint16_t, Floats> halves;
  const hn::RebindToUnsigned<Floats> words;
  const auto bits = hn::LoadU(halves, reinterpret_cast<const std::uint16_t*>(w));
  return hn::BitCast(Floats(), hn::ShiftLeft<16>(hn::PromoteTo(words, bits)));
}

HWY_INLINE Float load_wide(const f16* w) {
  const hn::Rebind<hwy::float16_t, Floats> halves;
  return hn::PromoteTo(Floats(), hn::LoadU(halves, reinterpret_cast<const hwy::float16_t*>(w)));
}

// The last n weights of a row, zero beyond: through a small buffer, so nothing past the row is
// read.
template <class W>
HWY_INLINE Float load_tail(const W* w, std::size_t n) {
  W buffer[HWY_MAX_BYTES / sizeof(float)] = {};
  std::memcpy(static_cast<void*>(buffer), w, n * sizeof(W));
  return load_wide(buffer);
}

// With several rows of x there is enough arithmetic between loads for the hardware prefetcher to
// fall back. Rows of W follow each other in memory, so this far ahead lies what is needed soon;
// past the end of W a prefetch does nothing.
constexpr std::size_t prefetch_bytes = 4096;

template <class W>
HWY_INLINE void prefetch_ahead(const W* w) {
  hwy::Prefetch(reinterpret_cast<const std::uint8_t*>(w) + prefetch_bytes);
}

// w0 . x and w1 . x. The two rows of W lie far apart: the hardware prefetcher stops where a page
// ends, which for a row of 1024 floats is every row, and of two streams one always runs. Two sums
// each hide the latency of the fused multiply-add. The accumulators of these two functions are
// named one by one: GCC 12 keeps an array of vectors in memory, which cost a factor of three.
template <class W>
HWY_INLINE void dots_of_two_rows(const W* w0, const W* w1, const float* x, std::size_t n,
                                 float* dot0, float* dot1) {
  const Floats d;
  const std::size_t width = hn::Lanes(d);
  auto s0 = hn::Zero(d), s1 = hn::Zero(d), t0 = hn::Zero(d), t1 = hn::Zero(d);
  std::size_t at = 0;
  for (; at + 2 * width <= n; at += 2 * width) {
    const auto x0 = hn::LoadU(d, x + at);
    const auto x1 = hn::LoadU(d, x + at + width);
    s0 = hn::MulAdd(load_wide(w0 + at), x0, s0);
    t0 = hn::MulAdd(load_wide(w1 + at), x0, t0);
    s1 = hn::MulAdd(load_wide(w0 + at + width), x1, s1);
    t1 = hn::MulAdd(load_wide(w1 + at + width), x1, t1);
  }
  while (at < n) {
    const std::size_t left = n - at < width ? n - at : width;
    const auto x0 = load_tail(x + at, left);
    s0 = hn::MulAdd(load_tail(w0 + at, left), x0, s0);
    t0 = hn::MulAdd(load_tail(w1 + at, left), x0, t0);
    at += left;
  }
  *dot0 = sum_of(hn::Add(s0, s1));
  *dot1 = sum_of(hn::Add(t0, t1));
}

// One row of W with four rows of x, which share each load of w.
template <class W>
HWY_INLINE void four_dots_of_row(const W* w, const float* x, std::size_t x_stride, std::size_t n,
                                 float* dots) {
  const Floats d;
  const std::size_t width = hn::Lanes(d);
  const float* x0 = x;
  const float* x1 = x0 + x_stride;
  const float* x2 = x1 + x_stride;
  const float* x3 = x2 + x_stride;
  auto s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
  auto t0 = hn::Zero(d), t1 = hn::Zero(d), t2 = hn::Zero(d), t3 = hn::Zero(d);
  std::size_t at = 0;
  for (; at + 2 * width <= n; at += 2 * width) {
    for (std::size_t line = 0; line < 2 * width; line += 64 / sizeof(W)) {
      prefetch_ahead(w + at + line);
    }
    const auto w0 = load_wide(w + at);
    const auto w1 = load_wide(w + at + width);
    s0 = hn::MulAdd(w0, hn::LoadU(d, x0 + at), s0);
    s1 = hn::MulAdd(w0, hn::LoadU(d, x1 + at), s1);
    s2 = hn::MulAdd(w0, hn::LoadU(d, x2 + at), s2);
    s3 = hn::MulAdd(w0, hn::LoadU(d, x3 + at), s3);
    t0 = hn::MulAdd(w1, hn::LoadU(d, x0 + at + width), t0);
    t1 = hn::MulAdd(w1, hn::LoadU(d, x1 + at + width), t1);
    t2 = hn::MulAdd(w1, hn::LoadU(d, x2 + at + width), t2);
    t3 = hn::MulAdd(w1, hn::LoadU(d, x3 + at + width), t3);
  }
  while (at < n) {
    const std::size_t left = n - at < width ? n - at : width;
    const auto w0 = load_tail(w + at, left);
    s0 = hn::MulAdd(w0, load_tail(x0 + at, left), s0);
    s1 = hn::MulAdd(w0, load_tail(x1 + at, left), s1);
    s2 = hn::MulAdd(w0, load_tail(x2 + at, left), s2);
    s3 = hn::MulAdd(w0, load_tail(x3 + at, left), s3);
    at += left;
  }
  dots[0] = sum_of(hn::Add(s0, t0));
  dots[1] = sum_of(hn::Add(s1, t1));
  dots[2] = sum_of(hn::Add(s2, t2));
  dots[3] = sum_of(hn::Add(s3, t3));
}

template <class W>
HWY_INLINE void dots_of_rows(const W* w0, const W* w1, const float* x, std::size_t x_stride,
                             std::size_t rows, std::size_t n, float* dots0, float* dots1) {
  std::size_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    four_dots_of_row(w0, x + r * x_stride, x_stride, n, dots0 + r);
    four_dots_of_row(w1, x + r * x_stride, x_stride, n, dots1 + r);
  }
  for (; r < rows; ++r) dots_of_two_rows(w0, w1, x + r * x_stride, n, dots0 + r, dots1 + r);
}

void dots(const void* w0, const void* w1, DType type, const float* x, std::size_t x_stride,
          std::size_t rows, std::size_t n, float* dots0, float* dots1) {
  const auto as = [&]<class W>(const W*) {
    dots_of_rows(static_cast<const W*>(w0), static_cast<const W*>(w1), x, x_stride, rows, n, dots0,
                 dots1);
  };
  if (type == DType::bf16) return as(static_cast<const bf16*>(nullptr));
  if (type == DType::f16) return as(static_cast<const f16*>(nullptr));
  as(static_cast<const float*>(nullptr));
}

template <class W>
HWY_INLINE void widen_typed(const W* from, std::size_t n, float* to) {
  const std::size_t width = hn::Lanes(Floats());
  std::size_t at = 0;
  for (; at + width <= n; at += width) hn::StoreU(load_wide(from + at), Floats(), to + at);
  for (; at < n; ++at) to[at] = static_cast<float>(from[at]);
}

void widen_row(const void* from, DType type, std::size_t n, float* to) {
  if (type == DType::bf16) return widen_typed(static_cast<const bf16*>(from), n, to);
  return widen_typed(static_cast<const f16*>(from), n, to);
}

}  // namespace metala::linear::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::linear::cpu {
HWY_EXPORT(dots);
HWY_EXPORT(widen_row);

namespace {

const std::byte* row_of(const Tensor& t, std::int64_t row) {
  return static_cast<const std::byte*>(t.raw()) +
         bytes_of(t.dtype(), static_cast<std::size_t>(row * t.stride(0)));
}

}  // namespace

void forward_streaming(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y,
                       bool accumulate) {
  constexpr std::int64_t most_rows = 64;
  require(x.size(0) <= most_rows, "linear: {} rows for the streaming form; at most {}", x.size(0),
          most_rows);
  const float* b = bias.defined() ? bias.data<float>() : nullptr;
  const float* in = x.data<float>();
  float* out = y.data<float>();
  const auto kernel = HWY_DYNAMIC_DISPATCH(dots);
  parallel_row_pairs(weight, [&](std::int64_t o, std::int64_t other, int count) {
    float dots[2][most_rows];
    kernel(row_of(weight, o), row_of(weight, other), weight.dtype(), in,
           static_cast<std::size_t>(x.stride(0)), static_cast<std::size_t>(x.size(0)),
           static_cast<std::size_t>(x.size(1)), dots[0], dots[1]);
    for (int i = 0; i < count; ++i) {
      const std::int64_t at = i == 0 ? o : other;
      for (std::int64_t n = 0; n < x.size(0); ++n) {
        float& target = out[n * y.stride(0) + at];
        const float value = dots[i][n] + (b == nullptr ? 0.0f : b[at]);
        target = accumulate ? target + value : value;
      }
    }
  });
}

void widen(const Tensor& from, Tensor to) {
  const auto kernel = HWY_DYNAMIC_DISPATCH(widen_row);
  parallel_ranges(from.size(0), 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      kernel(row_of(from, n), from.dtype(), static_cast<std::size_t>(from.size(1)),
             to.data<float>() + n * to.stride(0));
    }
  });
}

}  // namespace metala::linear::cpu
#endif
