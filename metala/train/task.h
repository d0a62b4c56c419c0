// TrainingTask: what a trainer learns from. Batches are pure functions of their number, so a
// resumed run reads exactly what an undisturbed one would have read.
#pragma once

#include <cstdint>
#include <vector>

#include "metala/model/language_model.h"

namespace metala {

struct LabelledBatch {
  std::vector<std::int32_t> ids;      // [N]
  std::vector<std::int32_t> labels;   // [N], -100 where there is nothing to learn
  std::vector<std::int64_t> offsets;  // B + 1
  std::int64_t bytes = 0;             // of text the labels stand for; 0 where that means nothing
  // Of a context_part, [B]: where in the whole batch the part of each sequence begins.
  std::vector<std::int64_t> origins = {};

  Batch batch(Communicator* context = nullptr) const { return {ids, offsets, context, origins}; }
};

// Part `rank` of `ranks` of every sequence, cut as evenly as whole tokens go. Sequences too short
// to give each rank `shortest` tokens go to rank 0 whole, as do the bytes.
LabelledBatch context_part(const LabelledBatch&, std::int64_t rank, std::int64_t ranks,
                           std::int64_t shortest);

class TrainingTask {
 public:
  virtual ~TrainingTask() = default;
  // Micro batch `index`, counted over the whole run.
  virtual LabelledBatch training_batch(std::int64_t index) const = 0;
  virtual std::int64_t validation_batches() const = 0;
  virtual LabelledBatch validation_batch(std::int64_t index) const = 0;
};

}  // namespace metala
