// Vector loops over rows of floats, compiled once per instruction set (Highway).
//
// `for_lanes(n, body)` calls body(lanes) for whole vectors, then once for the tail: lanes.load and
// lanes.store take the row's base pointer and touch only elements below n; lanes past the end load
// as zero. So a body is written once and rows need neither padding nor alignment.
#if defined(METALA_DEVICE_CPU_VECTOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef METALA_DEVICE_CPU_VECTOR_INL_H_
#undef METALA_DEVICE_CPU_VECTOR_INL_H_
#else
#define METALA_DEVICE_CPU_VECTOR_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>

HWY_BEFORE_NAMESPACE();
namespace metala::vector::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Float = hn::Vec<Floats>;

struct WholeLanes {
  std::size_t at;
  HWY_INLINE Float load(const float* row) const { return hn::LoadU(Floats(), row + at); }
  HWY_INLINE void store(Float v, float* row) const { hn::StoreU(v, Floats(), row + at); }
  HWY_INLINE Float keep(Float v) const { return v; }  // zero past the row's end
};

// Where a masked access touches all lanes of its vector all the same (NEON), elements go by way of
// memory of their own: a neighbour in memory may be another thread's, or not there.
#define METALA_MASKS_TOUCH_ALL (HWY_MEM_OPS_MIGHT_FAULT && HWY_ARCH_ARM)

struct TailLanes {
  std::size_t at;
  std::size_t count;
  HWY_INLINE Float load(const float* row) const {
#if METALA_MASKS_TOUCH_ALL
    HWY_ALIGN float lanes[HWY_LANES(float)] = {};
    std::copy_n(row + at, count, lanes);
    return hn::Load(Floats(), lanes);
#else
    return hn::MaskedLoad(hn::FirstN(Floats(), count), Floats(), row + at);
#endif
  }
  HWY_INLINE void store(Float v, float* row) const {
#if METALA_MASKS_TOUCH_ALL
    HWY_ALIGN float lanes[HWY_LANES(float)];
    hn::Store(v, Floats(), lanes);
    std::copy_n(lanes, count, row + at);
#else
    hn::BlendedStore(v, hn::FirstN(Floats(), count), Floats(), row + at);
#endif
  }
  HWY_INLINE Float keep(Float v) const {
    return hn::IfThenElseZero(hn::FirstN(Floats(), count), v);
  }
};

#undef METALA_MASKS_TOUCH_ALL

template <class Body>
HWY_INLINE void for_lanes(std::size_t n, Body body) {
  const std::size_t width = hn::Lanes(Floats());
  std::size_t at = 0;
  for (; at + width <= n; at += width) body(WholeLanes{at});
  if (at < n) body(TailLanes{at, n - at});
}

HWY_INLINE float sum_of(Float v) {
  return hn::GetLane(hn::SumOfLanes(Floats(), v));
}

// Four sums in flight hide the latency of the fused multiply-add.
HWY_INLINE float dot(const float* a, const float* b, std::size_t n) {
  const Floats d;
  const std::size_t width = hn::Lanes(d);
  auto s0 = hn::Zero(d);
  auto s1 = hn::Zero(d);
  auto s2 = hn::Zero(d);
  auto s3 = hn::Zero(d);
  std::size_t at = 0;
  for (; at + 4 * width <= n; at += 4 * width) {
    s0 = hn::MulAdd(hn::LoadU(d, a + at), hn::LoadU(d, b + at), s0);
    s1 = hn::MulAdd(hn::LoadU(d, a + at + width), hn::LoadU(d, b + at + width), s1);
    s2 = hn::MulAdd(hn::LoadU(d, a + at + 2 * width), hn::LoadU(d, b + at + 2 * width), s2);
    s3 = hn::MulAdd(hn::LoadU(d, a + at + 3 * width), hn::LoadU(d, b + at + 3 * width), s3);
  }
  for_lanes(n - at,
            [&](auto lanes) { s0 = hn::MulAdd(lanes.load(a + at), lanes.load(b + at), s0); });
  return sum_of(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

HWY_INLINE float sum(const float* a, std::size_t n) {
  auto s = hn::Zero(Floats());
  for_lanes(n, [&](auto lanes) { s = hn::Add(s, lanes.load(a)); });
  return sum_of(s);
}

// 1 / (1 + e^-x), for every finite x.
HWY_INLINE Float sigmoid(Float x) {
  const Floats d;
  const auto one = hn::Set(d, 1.0f);
  // e^-|x| never overflows; the two halves meet at 0.
  const auto e = hn::Exp(d, hn::Neg(hn::Abs(x)));
  const auto small = hn::Div(one, hn::Add(one, e));  // sigmoid(|x|)
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Mul(e, small), small);
}

}  // namespace metala::vector::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
