// MqarTask: multi-query associative recall, the memory probe of Zoology (arXiv:2312.04927).
//
// An example is K pairs of key and value, then a zone in which each key appears once more, at a
// place drawn with a power law, and must be answered with its value at its own position. All other
// positions hold token 0 and carry no label.
//
//   keys from 1 .. V/2-1, values from V/2 .. V-1, both without repetition
//   slots i = 0 .. (L-2K)/2 - 1 at positions 2K + 2i, weight (i+1)^(a-1), drawn one after the other
//   without replacement; the j-th drawn belongs to pair j
#pragma once

#include <cstdint>

#include "metala/train/task.h"

namespace metala {

struct MqarOptions {
  std::int64_t vocabulary = 8192;  // V
  std::int64_t length = 64;        // L, even
  std::int64_t pairs = 4;          // K, 4 K <= L
  double power = 0.01;             // a
  bool random_filler = false;      // uniform tokens instead of 0 in the query zone
  std::int64_t training_examples = 100000;
  std::int64_t validation_examples = 3000;
  std::int64_t batch = 128;  // examples
  std::uint64_t seed = 0;
};

class MqarTask : public TrainingTask {
 public:
  // Throws Error naming the option that does not fit.
  explicit MqarTask(const MqarOptions&);

  // Epochs visit the training examples in different random orders; validation examples come from
  // a stream of their own.
  LabelledBatch training_batch(std::int64_t index) const override;
  std::int64_t validation_batches() const override;
  LabelledBatch validation_batch(std::int64_t index) const override;

  // Example `index` of stream 0 (training) or 1 (validation), added to the batch.
  void add_example(std::uint64_t stream, std::int64_t index, LabelledBatch&) const;

 private:
  MqarOptions options_;
};

}  // namespace metala
