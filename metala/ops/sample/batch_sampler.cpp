#include "metala/ops/sample/batch_sampler.h"

#include <algorithm>
#include <utility>

#include "metala/base/random.h"
#include "metala/device/cuda/pinned.h"
#include "metala/ops/sample/sample_cuda.h"

namespace metala::sample {

BatchSampler::BatchSampler(Device device, std::int64_t batch, Options options)
    : options_(std::move(options)), ids_(static_cast<std::size_t>(batch)) {
  if constexpr (cuda_built) {
    if (device.is_cuda()) {
      pinned_ =
          metala::cuda::pinned_memory(device, (sizeof(double) + sizeof(ids_[0])) * ids_.size());
    }
  }
}

bool BatchSampler::covers(const Options& o) {
  return o.repetition_penalty == 1 && o.logit_bias.empty();
}

std::span<const std::int32_t> BatchSampler::choose(const Tensor& logits,
                                                   std::span<const Draw> draws) {
  check(options_);
  check_tensor("sample: logits", logits, {static_cast<std::int64_t>(ids_.size()), logits.size(1)},
               DType::f32);
  require(draws.size() == ids_.size(), "sample: {} draws for {} rows of logits", draws.size(),
          ids_.size());
  std::fill(ids_.begin(), ids_.end(), -1);
  if constexpr (cuda_built) {
    if (logits.device().is_cuda() && logits.size(1) <= cuda::most_ids) {
      auto* const uniform = static_cast<double*>(pinned_.get());
      auto* const there = reinterpret_cast<std::int32_t*>(uniform + ids_.size());
      for (std::size_t b = 0; b < draws.size(); ++b) {
        uniform[b] = Philox(options_.seed, draws[b].stream).uniform(draws[b].position);
      }
      if (greedy()) {
        cuda::greedy(logits, there);
      } else {
        cuda::draw(options_, logits, uniform, there);
      }
      memory_of(logits.device()).synchronize();
      std::copy(there, there + ids_.size(), ids_.begin());
    }
  }
  // On the CPU; and what the GPU refused, to say why.
  for (std::size_t b = 0; b < ids_.size(); ++b) {
    if (ids_[b] >= 0) continue;
    const Tensor row = logits.row(static_cast<std::int64_t>(b)).to({});
    ids_[b] =
        next(options_, {row.data<float>(), static_cast<std::size_t>(row.count())}, {}, draws[b]);
  }
  return ids_;
}

}  // namespace metala::sample
