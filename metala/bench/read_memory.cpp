#include "metala/bench/read_memory.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/bench/read_memory.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace metala::bench::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Two streams with two sums each: where memory lies in small pages, the hardware prefetcher stops
// at the end of each, and of two streams one runs. On the machines measured this beat one stream by
// a tenth; software prefetches and more streams were no faster.
float add_up_vectors(const float* data, std::size_t n) {
  const hn::ScalableTag<float> d;
  const std::size_t width = hn::Lanes(d);
  const std::size_t half = n / 2;
  const float* other = data + half;
  auto s0 = hn::Zero(d), s1 = hn::Zero(d), t0 = hn::Zero(d), t1 = hn::Zero(d);
  std::size_t i = 0;
  for (; i + 2 * width <= half; i += 2 * width) {
    s0 = hn::Add(s0, hn::LoadU(d, data + i));
    t0 = hn::Add(t0, hn::LoadU(d, other + i));
    s1 = hn::Add(s1, hn::LoadU(d, data + i + width));
    t1 = hn::Add(t1, hn::LoadU(d, other + i + width));
  }
  float total = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(t0, t1))));
  for (std::size_t at = i; at < half; ++at) total += data[at];
  for (std::size_t at = half + i; at < n; ++at) total += data[at];
  return total;
}

}  // namespace metala::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::bench {
HWY_EXPORT(add_up_vectors);

float add_up(const float* data, std::size_t n) {
  return HWY_DYNAMIC_DISPATCH(add_up_vectors)(data, n);
}

}  // namespace metala::bench
#endif
