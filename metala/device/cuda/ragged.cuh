// Finding one's place in a ragged batch (base/ragged.h), in kernels.
#pragma once

#include <cstdint>

namespace metala::cuda {

// The sequence that holds token t: the last whose offset is at most t.
inline __device__ std::int64_t sequence_of(const std::int64_t* offsets, std::int64_t batch,
                                           std::int64_t t) {
  std::int64_t low = 0;
  std::int64_t high = batch - 1;
  while (low < high) {
    const std::int64_t middle = (low + high + 1) / 2;
    if (offsets[middle] <= t) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// The last i < count with holds(i), which must hold for 0 and fail for all after the first that
// fails. All lanes of a warp call it with the same arguments and look at 32 at once: a kernel that
// begins with this waits for one load, and not for one after each halving.
template <class F>
__device__ __forceinline__ std::int64_t last_where(std::int64_t count, F holds) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  std::int64_t first = 0;
  while (count > 1) {
    const std::int64_t step = (count + 31) / 32;
    const std::int64_t own = lane * step;
    const bool found = own < count && holds(first + own);
    const int last = 31 - __clz(static_cast<int>(__ballot_sync(0xffffffffu, found)));
    first += last * step;
    count = count - last * step < step ? count - last * step : step;
  }
  return first;
}

// The same as sequence_of, for a warp whose lanes ask for one token.
__device__ __forceinline__ std::int64_t sequence_of_warp(const std::int64_t* offsets,
                                                         std::int64_t batch, std::int64_t t) {
  return last_where(batch, [&](std::int64_t i) { return offsets[i] <= t; });
}

}  // namespace metala::cuda
