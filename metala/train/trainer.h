// Trainer: minimises a task's cross entropy with AdamW, on one rank or many.
//
// Ranks form groups of context_ranks that share each sequence (context parallelism), and the
// groups, D of them, divide the micro batches (data parallelism). A step has accumulation * D micro
// batches; group g takes those numbered g, g + D, ... of them. Its loss is the mean over all their
// labelled tokens, whichever rank they are on (or, on demand, GPT-NeoX's mean of their means): any
// number of ranks computes the same, up to rounding, as one with accumulation * D. Same seed,
// thread count, ranks and sizes give the same bits, whether or not the run was interrupted in
// between.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "metala/distributed/communicator.h"
#include "metala/model/language_model.h"
#include "metala/ops/adamw/adamw.h"
#include "metala/train/loss_scaler.h"
#include "metala/train/schedule.h"
#include "metala/train/spike_guard.h"
#include "metala/train/task.h"
#include "metala/train/training_pass.h"
#include "metala/train/zero_optimizer.h"

namespace metala {

// After which steps a checkpoint is due, besides the last.
struct SavePlan {
  std::int64_t every = 0;          // 0: none
  bool powers = false;             // at the powers of `every` instead of its multiples
  std::vector<std::int64_t> also;  // 0: before the first step

  bool due(std::int64_t step) const;
};

struct TrainerOptions {
  Device device;
  // Of matrices and activations: f32, or on a GPU bf16 or f16 beside f32 weights that the optimizer
  // keeps.
  DType dtype = DType::f32;
  std::int64_t steps = 1000;
  std::int64_t accumulation = 1;   // micro batches of each group of ranks in a step
  std::int64_t context_ranks = 1;  // that share each sequence; divides the number of ranks
  // Of training and validation: the mean over micro batches of the mean over each one's labels, as
  // GPT-NeoX has it, instead of the mean over all labels. They differ where some bear fewer.
  bool mean_of_means = false;
  Schedule schedule;
  adamw::Options adamw{.clip = 1.0};  // learning rate and step are the schedule's and the trainer's
  bool decay_all = false;             // false: only matrices decay; true: all but norms and biases
  std::int64_t validate_every = 100;  // steps; 0: never, but still at the end
  SavePlan save;
  TrainingOptions model;
  double stop_at_accuracy = 2;  // validation accuracy that ends the run early
  // A step whose loss or gradient norm stands out by more deviations than this is not taken: the
  // weights stay as they are (spike_guard.h). 0: every step is taken.
  double skip_spikes_above = 0;
  LossScaling scaling;            // f16 needs it
  std::int64_t bucket_bytes = 0;  // of gradients sent at once; 0: by the number of ranks
  bool replay = true;             // on a GPU, passes of the same shapes as one graph
};

struct StepReport {
  std::int64_t step = 0;  // steps done, this one included
  double loss = 0;
  double learning_rate = 0;
  double gradient_norm = 0;
  double loss_z = 0, norm_z = 0;  // of the spike guard, when it is on
  bool skipped = false;           // by it
  double loss_scale = 1;
  bool overflowed = false;  // left out by the loss scaler: loss or norm is not finite
  bool unlabelled = false;  // left out, as there was nothing to learn: loss and norm are NaN
  std::int64_t tokens = 0;
  double seconds = 0;
};

struct ValidationReport {
  std::int64_t step = 0;
  std::int64_t tokens = 0;  // with labels; 0: there was nothing to validate on
  double loss = 0;
  double perplexity = 0;
  double accuracy = 0;
  double bits_per_byte = 0;  // 0 where the task knows no bytes
};

// What a run tells the outside, on every rank. Any may be empty.
struct TrainerEvents {
  std::function<void(const StepReport&)> stepped;
  std::function<void(const ValidationReport&)> validated;  // not if there is nothing to validate on
  std::function<void(std::int64_t step)> save;  // due now: write a checkpoint, all ranks together
  std::function<bool()> interrupted;            // true: save and stop after this step
};

class Trainer {
 public:
  // Copies the parameters, all f32 and the same on all ranks, to the device.
  Trainer(Communicator&, const Config&, const Parameters&, const TrainingTask&, TrainerOptions);

  // From the current step to the last. Throws Error naming step and tensor when the loss or a
  // gradient is not finite, before a checkpoint is written of it; nothing has been updated by it.
  // Returns whether any rank was interrupted.
  bool run(const TrainerEvents&);

  // One step. Throws as `run` does. A step whose tokens all have no label changes no weight; fifty
  // of them in a row are an Error.
  StepReport advance();

  ValidationReport validate() { return validate(task_); }
  // On the validation batches of another task, such as the test part of a corpus.
  ValidationReport validate(const TrainingTask&);

  const LanguageModel& model() const { return model_; }
  std::int64_t groups() const { return groups_; }  // of ranks; each has micro batches of its own
  std::int64_t step() const { return step_; }

  // The weights and this rank's part of the optimizer's state (zero_optimizer.h), for checkpoints.
  const ZeroOptimizer& optimizer() const { return optimizer_; }
  // Tells the spike guard of a step before this run of the program.
  void remember(double loss, double gradient_norm) { guard_.score(loss, gradient_norm); }
  const LossScaler& scaler() const { return scaler_; }
  void restore_scaler(const LossScaler::State& state) { scaler_.restore(state); }
  // Goes on after `step` done steps with the states that ranks saved then.
  void restore(std::int64_t step, const std::map<std::string, Tensor>& optimizer_states);

 private:
  // What this rank takes of a batch of its group.
  LabelledBatch part_of(LabelledBatch) const;
  // The ranks of this group; null where it is one.
  Communicator* context();
  void require_finite(double loss, double norm, const std::string& why = "") const;
  // The weight of a label of each micro batch of a step, over all groups, in their order, from
  // their numbers of labels: the loss is the sum of losses so weighted.
  std::vector<double> label_weights(const std::vector<double>& labels) const;
  // Replaces values by their sums over ranks.
  void sum_over_ranks(std::span<double> values, const std::string& what) const;

  Communicator& ranks_;
  std::int64_t groups_ = 1, group_ = 0;
  std::unique_ptr<Communicator> context_;  // made by the first step, which all ranks take together
  const Config config_;
  const TrainingTask& task_;
  TrainerOptions options_;
  ZeroOptimizer optimizer_;
  LanguageModel model_;
  std::int64_t step_ = 0;
  std::int64_t saved_ = -1;  // the step that a checkpoint holds
  std::int64_t unlabelled_in_a_row_ = 0;
  Tensor sums_, norm_;  // of a step, on the device
  TrainingPass pass_;
  SpikeGuard guard_;
  LossScaler scaler_;
};

}  // namespace metala
