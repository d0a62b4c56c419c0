// Linear maps of few rows, where the time is that of reading W once.
//
// A chunk of rows of W is read in order, which is what the hardware prefetchers follow best. Four
// rows of x share each load of W.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/linear/linear_streaming.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "metala/base/threads.h"
#include "metala/ops/linear/linear_cpu.h"
#include "metala/ops/linear/linear_weights-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metala::linear::cpu::HWY_NAMESPACE {
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

template <class W>
HWY_INLINE void stream_typed(const WeightRows& w, const float* x, std::size_t x_stride,
                             std::size_t x_rows, const Results& results) {
  const std::size_t half = (w.count + 1) / 2;
  const auto row = [&](std::size_t o) { return reinterpret_cast<const W*>(w.row(o)); };
  for (std::size_t o = 0; o < half; ++o) {
    const std::size_t other = o + half < w.count ? o + half : o;  // the middle of an odd count
    float dots[streaming_rows], other_dots[streaming_rows];
    dots_of_rows(row(o), row(other), x, x_stride, x_rows, w.in, dots, other_dots);
    for (std::size_t n = 0; n < x_rows; ++n) {
      results.put(n, o, dots[n]);
      if (other != o) results.put(n, other, other_dots[n]);
    }
  }
}

void stream_floats(const WeightRows& w, const float* x, std::size_t x_stride, std::size_t x_rows,
                   const Results& results) {
  if (w.type == DType::bf16) return stream_typed<bf16>(w, x, x_stride, x_rows, results);
  if (w.type == DType::f16) return stream_typed<f16>(w, x, x_stride, x_rows, results);
  stream_typed<float>(w, x, x_stride, x_rows, results);
}

}  // namespace metala::linear::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::linear::cpu {
HWY_EXPORT(stream_floats);

void stream_floats(const WeightRows& w, const float* x, std::size_t x_stride, std::size_t x_rows,
                   const Results& results) {
  HWY_DYNAMIC_DISPATCH(stream_floats)(w, x, x_stride, x_rows, results);
}

}  // namespace metala::linear::cpu
#endif
