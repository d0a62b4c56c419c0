// BatchSampler: the next token of every sequence of a batch, chosen where its logits lie, so that
// from a GPU only ids travel.
//
// On a GPU weights are float32 exponentials, summed as integers: the same ids on every run, and
// those of `next` (sample.h) but where a draw or a cut comes within 1e-6 of the border between two.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "metala/base/tensor.h"
#include "metala/ops/sample/sample.h"

namespace metala::sample {

class BatchSampler {
 public:
  BatchSampler(Device, std::int64_t batch, Options);

  // Whether it takes these options: those that treat all ids alike.
  static bool covers(const Options&);

  // For each row of logits [B, V] f32 what `next` chooses for its draw; valid until the next call.
  // Throws Error as `next` does.
  std::span<const std::int32_t> choose(const Tensor& logits, std::span<const Draw>);

 private:
  bool greedy() const { return options_.temperature == 0 || options_.top_k == 1; }

  Options options_;
  std::shared_ptr<void> pinned_;  // on a GPU: B uniform numbers f64 that it reads, B ids it writes
  std::vector<std::int32_t> ids_;
};

}  // namespace metala::sample
