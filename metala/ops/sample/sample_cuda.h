// The greedy choice on the GPU.
#pragma once

#include <cstdint>

#include "metala/base/tensor.h"

namespace metala::sample::cuda {

// ids[b] = the first largest of logits[b, :], f32 [B, V], rows end to end; -1 where one is NaN or
// the largest is not finite. Enqueued; ids may lie in pinned memory (device/cuda/pinned.h).
void greedy(const Tensor& logits, std::int32_t* ids);

}  // namespace metala::sample::cuda
