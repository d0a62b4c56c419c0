#include "metala/ops/sample/greedy_batch.h"

#include <algorithm>

#include "metala/device/cuda/pinned.h"
#include "metala/ops/sample/sample_cuda.h"

namespace metala::sample {
namespace {

std::int32_t first_largest(const Tensor& row) {
  const Tensor here = row.to({});
  const std::span<const float> logits(here.data<float>(), static_cast<std::size_t>(here.count()));
  Options greedy;
  greedy.temperature = 0;
  return next(greedy, logits, {}, {});
}

}  // namespace

GreedyBatch::GreedyBatch(Device device, std::int64_t batch)
    : ids_(static_cast<std::size_t>(batch)) {
  if constexpr (cuda_built) {
    if (device.is_cuda())
      pinned_ = metala::cuda::pinned_memory(device, sizeof(ids_[0]) * ids_.size());
  }
}

bool GreedyBatch::covers(const Options& o) {
  return o.temperature == 0 && o.repetition_penalty == 1 && o.logit_bias.empty();
}

std::span<const std::int32_t> GreedyBatch::choose(const Tensor& logits) {
  check_tensor("sample: logits", logits, {static_cast<std::int64_t>(ids_.size()), logits.size(1)},
               DType::f32);
  std::fill(ids_.begin(), ids_.end(), -1);
  if constexpr (cuda_built) {
    if (logits.device().is_cuda()) {
      auto* const there = static_cast<std::int32_t*>(pinned_.get());
      cuda::greedy(logits, there);
      memory_of(logits.device()).synchronize();
      std::copy(there, there + ids_.size(), ids_.begin());
    }
  }
  // On the CPU; and what the GPU refused, to say why.
  for (std::size_t b = 0; b < ids_.size(); ++b) {
    if (ids_[b] < 0) ids_[b] = first_largest(logits.row(static_cast<std::int64_t>(b)));
  }
  return ids_;
}

}  // namespace metala::sample
