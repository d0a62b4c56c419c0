// One thread owns a row; a lane owns every Nth channel. Bound by memory beyond the caches, by the
// exponential within them.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/glu/glu_cpu.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/highway.h>

#include "metala/base/threads.h"
#include "metala/device/cpu/vector-inl.h"
#include "metala/ops/glu/glu_cpu.h"

HWY_BEFORE_NAMESPACE();
namespace metala::glu::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using vector::HWY_NAMESPACE::Floats;
using vector::HWY_NAMESPACE::for_lanes;
using vector::HWY_NAMESPACE::sigmoid;

void silu_row(const float* a, const float* b, std::size_t width, float* y) {
  for_lanes(width, [&](auto lanes) {
    const auto x = lanes.load(a);
    const auto act = hn::Mul(x, sigmoid(x));
    lanes.store(b == nullptr ? act : hn::Mul(act, lanes.load(b)), y);
  });
}

void silu_row_backward(const float* a, const float* b, const float* dy, std::size_t width,
                       float* da, float* db) {
  const auto one = hn::Set(Floats(), 1.0f);
  for_lanes(width, [&](auto lanes) {
    const auto x = lanes.load(a);
    const auto s = sigmoid(x);
    const auto gradient = lanes.load(dy);
    const auto slope = hn::Mul(s, hn::MulAdd(x, hn::Sub(one, s), one));
    auto to_a = hn::Mul(gradient, slope);
    if (b != nullptr) {
      to_a = hn::Mul(to_a, lanes.load(b));
      lanes.store(hn::MulAdd(gradient, hn::Mul(x, s), lanes.load(db)), db);
    }
    lanes.store(hn::Add(lanes.load(da), to_a), da);
  });
}

}  // namespace metala::glu::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::glu::cpu {
HWY_EXPORT(silu_row);
HWY_EXPORT(silu_row_backward);

namespace {

constexpr std::int64_t rows_per_task = 4;

// Row n of a matrix, or null for an absent one.
float* row_of(const Tensor& t, std::int64_t n) {
  return t.defined() ? t.data<float>() + n * t.stride(0) : nullptr;
}

}  // namespace

void silu_forward(const Tensor& a, const Tensor& b, Tensor y) {
  const auto row = HWY_DYNAMIC_DISPATCH(silu_row);
  parallel_ranges(a.size(0), rows_per_task, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      row(row_of(a, n), row_of(b, n), static_cast<std::size_t>(a.size(1)), row_of(y, n));
    }
  });
}

void silu_backward(const Tensor& a, const Tensor& b, const Tensor& dy, Tensor da, Tensor db) {
  const auto row = HWY_DYNAMIC_DISPATCH(silu_row_backward);
  parallel_ranges(a.size(0), rows_per_task, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      row(row_of(a, n), row_of(b, n), row_of(dy, n), static_cast<std::size_t>(a.size(1)),
          row_of(da, n), row_of(db, n));
    }
  });
}

}  // namespace metala::glu::cpu
#endif
