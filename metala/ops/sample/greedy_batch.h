// GreedyBatch: the greedy choice for every sequence of a batch where its logits lie, so that from a
// GPU only ids travel.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "metala/base/tensor.h"
#include "metala/ops/sample/sample.h"

namespace metala::sample {

class GreedyBatch {
 public:
  GreedyBatch(Device, std::int64_t batch);

  // Whether `next` (sample.h) with these options is the first largest logit and nothing else.
  static bool covers(const Options&);

  // For each row of logits [B, V] f32 the id of its first largest; valid until the next call.
  // Throws Error as `next` does.
  std::span<const std::int32_t> choose(const Tensor& logits);

 private:
  std::shared_ptr<void> pinned_;  // on a GPU: B ids that it writes
  std::vector<std::int32_t> ids_;
};

}  // namespace metala::sample
