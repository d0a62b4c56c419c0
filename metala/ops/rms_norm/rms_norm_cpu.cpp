// One thread owns a row; a lane owns every Nth channel. Memory-bound: a row is read once from
// memory and once from cache.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/rms_norm/rms_norm_cpu.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/highway.h>

#include <cmath>

#include "metala/base/threads.h"
#include "metala/device/cpu/vector-inl.h"
#include "metala/ops/rms_norm/rms_norm_cpu.h"

HWY_BEFORE_NAMESPACE();
namespace metala::rms_norm::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using vector::HWY_NAMESPACE::dot;
using vector::HWY_NAMESPACE::Floats;
using vector::HWY_NAMESPACE::for_lanes;

void forward_row(const float* x, std::size_t width, float eps, float* y, float* inverse_rms) {
  const Floats d;
  const float r = 1 / std::sqrt(dot(x, x, width) / static_cast<float>(width) + eps);
  const auto scale = hn::Set(d, r);
  for_lanes(width, [&](auto lanes) { lanes.store(hn::Mul(lanes.load(x), scale), y); });
  if (inverse_rms != nullptr) *inverse_rms = r;
}

void backward_row(const float* dy, const float* y, std::size_t width, float r, float* dx) {
  const Floats d;
  const auto mean = hn::Set(d, dot(dy, y, width) / static_cast<float>(width));
  const auto scale = hn::Set(d, r);
  for_lanes(width, [&](auto lanes) {
    const auto centred = hn::NegMulAdd(lanes.load(y), mean, lanes.load(dy));
    lanes.store(hn::MulAdd(scale, centred, lanes.load(dx)), dx);
  });
}

}  // namespace metala::rms_norm::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::rms_norm::cpu {
HWY_EXPORT(forward_row);
HWY_EXPORT(backward_row);

constexpr std::int64_t rows_per_task = 16;

void forward(const Tensor& x, double eps, Tensor y, Tensor inverse_rms) {
  const auto width = static_cast<std::size_t>(x.size(1));
  const float* in = x.data<float>();
  float* out = y.data<float>();
  float* r = inverse_rms.defined() ? inverse_rms.data<float>() : nullptr;
  const auto row = HWY_DYNAMIC_DISPATCH(forward_row);
  parallel_ranges(x.size(0), rows_per_task, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      row(in + n * x.stride(0), width, static_cast<float>(eps), out + n * y.stride(0),
          r == nullptr ? nullptr : r + n);
    }
  });
}

void backward(const Tensor& dy, const Tensor& y, const Tensor& inverse_rms, Tensor dx) {
  const auto width = static_cast<std::size_t>(y.size(1));
  const float* gradient = dy.data<float>();
  const float* out = y.data<float>();
  const float* r = inverse_rms.data<float>();
  float* into = dx.data<float>();
  const auto row = HWY_DYNAMIC_DISPATCH(backward_row);
  parallel_ranges(y.size(0), rows_per_task, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      row(gradient + n * dy.stride(0), out + n * y.stride(0), width, r[n], into + n * dx.stride(0));
    }
  });
}

}  // namespace metala::rms_norm::cpu
#endif
