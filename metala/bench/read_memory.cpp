#include "metala/bench/read_memory.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/bench/read_memory.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace metala::bench::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Four sums in flight. The hardware prefetcher does the rest: on the machines measured no software
// prefetch, second stream or huge page was faster.
float add_up_vectors(const float* data, std::size_t n) {
  const hn::ScalableTag<float> d;
  const std::size_t width = hn::Lanes(d);
  auto s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
  std::size_t i = 0;
  for (; i + 4 * width <= n; i += 4 * width) {
    s0 = hn::Add(s0, hn::LoadU(d, data + i));
    s1 = hn::Add(s1, hn::LoadU(d, data + i + width));
    s2 = hn::Add(s2, hn::LoadU(d, data + i + 2 * width));
    s3 = hn::Add(s3, hn::LoadU(d, data + i + 3 * width));
  }
  float total = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; i < n; ++i) total += data[i];
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
