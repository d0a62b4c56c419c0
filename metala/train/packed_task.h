// PackedTask: predicting the next token of prepared data (data/sample_mix.h), in GPT-NeoX's order.
//
// Micro batch m of B sequences reads samples m B ... m B + B - 1 of the training mix and starts
// over behind the last whole one; validation reads the first samples of its own mix, the same every
// time. A sample x[0 .. T] gives the tokens x[0 .. T) and the labels x[1 .. T], or those of a
// dataset of labels at the same places.
#pragma once

#include <cstdint>
#include <vector>

#include "metala/data/sample_mix.h"
#include "metala/train/task.h"

namespace metala {

struct PackedTaskOptions {
  std::int64_t length = 2048;           // T
  std::int64_t sequences = 1;           // B
  std::int64_t validation_batches = 0;  // micro batches of one evaluation
  std::int64_t vocabulary = 0;          // ids at or above it are refused
  std::int32_t end_id = -1;
  // No loss where the input is the end token: what follows it has nothing to do with it
  // (GPT-NeoX's eod_mask_loss).
  bool mask_after_end = false;
  // A document starts from an empty state instead of the last one's, and its last token has no
  // label: documents become sequences of their own. Not in GPT-NeoX.
  bool reset_at_documents = false;
  std::vector<std::int32_t> bytes_of_id;  // for bits per byte; may be empty
};

class PackedTask : public TrainingTask {
 public:
  // Throws Error when the training mix cannot fill one micro batch.
  PackedTask(SampleMix training, SampleMix validation, PackedTaskOptions);

  LabelledBatch training_batch(std::int64_t index) const override;
  std::int64_t validation_batches() const override;
  LabelledBatch validation_batch(std::int64_t index) const override;

  const SampleMix& training() const { return training_; }
  const SampleMix& validation() const { return validation_; }

 private:
  LabelledBatch batch(const SampleMix&, std::int64_t index) const;
  void add_sample(const SampleMix&, std::int64_t sample, LabelledBatch&) const;

  SampleMix training_, validation_;
  PackedTaskOptions options_;
};

}  // namespace metala
