// Trainer: minimises a task's cross entropy with AdamW.
//
// The loss of a step is the mean over all labelled tokens of its micro batches. Same seed, thread
// count and sizes give the same bits, whether or not the run was interrupted in between.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "metala/model/language_model.h"
#include "metala/ops/adamw/adamw.h"
#include "metala/train/schedule.h"
#include "metala/train/task.h"

namespace metala {

struct TrainerOptions {
  Device device;
  // Of matrices and activations: f32, or on a GPU bf16 beside f32 weights that the optimizer keeps.
  DType dtype = DType::f32;
  std::int64_t steps = 1000;
  std::int64_t accumulation = 1;  // micro batches in a step
  Schedule schedule;
  adamw::Options adamw{.clip = 1.0};  // learning rate and step are the schedule's and the trainer's
  bool decay_all = false;             // false: only matrices decay; true: all but norms and biases
  std::int64_t validate_every = 100;  // steps; 0: never, but still at the end
  std::int64_t save_every = 0;        // steps; 0: only at the end
  TrainingOptions model;
  double stop_at_accuracy = 2;  // validation accuracy that ends the run early
};

struct StepReport {
  std::int64_t step = 0;  // steps done, this one included
  double loss = 0;
  double learning_rate = 0;
  double gradient_norm = 0;
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

// What a run tells the outside. Any may be empty.
struct TrainerEvents {
  std::function<void(const StepReport&)> stepped;
  std::function<void(const ValidationReport&)> validated;  // not if there is nothing to validate on
  std::function<void(std::int64_t step)> save;             // due now: write a checkpoint
  std::function<bool()> interrupted;                       // true: save and stop after this step
};

class Trainer {
 public:
  // Moves the parameters, all f32, to the device (on the CPU they are updated where they are) and
  // allocates gradients and moments.
  Trainer(const Config&, const Parameters&, const TrainingTask&, TrainerOptions);

  // From the current step to the last. Throws Error naming step and tensor when the loss or a
  // gradient is not finite; nothing has been updated by it.
  void run(const TrainerEvents&);

  // One step. Throws as `run` does.
  StepReport advance();

  ValidationReport validate();

  const LanguageModel& model() const { return model_; }
  std::int64_t step() const { return step_; }

  // The trained parameters, on the CPU.
  std::map<std::string, Tensor> parameters() const;
  // Moments by "first_moment.NAME" and "second_moment.NAME", on the CPU, for checkpoints.
  std::map<std::string, Tensor> optimizer_tensors() const;
  // Goes on after `step` done steps with these moments; throws Error for missing or misshapen ones.
  void restore(std::int64_t step, const std::map<std::string, Tensor>& optimizer_tensors);

 private:
  void require_finite(double loss, double norm) const;

  const Config config_;
  const TrainingTask& task_;
  TrainerOptions options_;
  Parameters weights_;  // f32, on the device
  Parameters working_;  // what the model reads: the same, or rounded copies of the matrices
  LanguageModel model_;
  std::vector<adamw::Slot> slots_;
  std::vector<Tensor> gradients_;
  std::int64_t step_ = 0;
  Arena arena_;
  Tensor sums_, norm_;  // of a step, on the device
};

}  // namespace metala
