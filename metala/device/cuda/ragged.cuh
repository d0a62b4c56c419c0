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

}  // namespace metala::cuda
