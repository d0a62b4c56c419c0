// PackedData: what a run configuration's data keys stand for: sample mixes and their tokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "metala/data/sample_mix.h"
#include "metala/text/tokenizer.h"
#include "metala/train/packed_task.h"
#include "metala/train/run_config.h"

namespace metala {

struct PackedData {
  SampleMix training, validation, test;
  std::unique_ptr<Tokenizer> tokenizer;  // null where only metala.vocab_size is known
  std::int64_t vocabulary = 0;
  std::int32_t end_id = -1;

  // Tasks for training and validating, and for the test part (as a task that validates).
  // `groups` of ranks share the micro batches of an evaluation.
  std::unique_ptr<PackedTask> training_task(const RunConfig&, std::int64_t groups);
  std::unique_ptr<PackedTask> test_task(const RunConfig&, std::int64_t groups);

 private:
  PackedTaskOptions task_options(const RunConfig&, std::int64_t groups) const;
};

// Opens the datasets of a settled configuration and orders as many samples as GPT-NeoX would want:
//   training train_iters B, validation (train_iters div eval_interval + 1) eval_iters B, test
//   eval_iters B, for B = train_batch_size
// With train_epochs, sets train_iters to what the data give. `keeping` (its part aside) says
// whether this rank keeps the order of many samples beside the data; metala.index_maps can turn
// that off. Throws Error for datasets prepared with different tokenizers, or with another than
// metala.tokenizer.
PackedData open_packed_data(RunConfig&, const IndexMapOptions& keeping = {});

}  // namespace metala
