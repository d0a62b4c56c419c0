// Choosing on the GPU. Enqueued; ids and uniform numbers may lie in pinned memory
// (device/cuda/pinned.h). Logits [B, V] f32, rows end to end.
#pragma once

#include <cstdint>

#include "metala/base/tensor.h"
#include "metala/ops/sample/sample.h"

namespace metala::sample::cuda {

// ids[b] = the first largest of logits[b, :]; -1 where one is NaN or the largest is not finite.
void greedy(const Tensor& logits, std::int32_t* ids);

// ids[b] = what `next` draws by uniform[b], with temperature, top-k, top-p and min-p; -1 as above.
// V up to most_ids.
constexpr std::int64_t most_ids = std::int64_t{1} << 18;
void draw(const Options&, const Tensor& logits, const double* uniform, std::int32_t* ids);

}  // namespace metala::sample::cuda
