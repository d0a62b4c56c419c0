// TrainingPass: a micro batch through a model and back.
//
// On a GPU a pass that comes with the same shapes (lengths, labelled tokens) as the one before is
// recorded as one graph and replayed as long as they stay; others are enqueued kernel by kernel.
// Before the first pass, and before any larger one, the pass is rehearsed: what it needs is then
// known, and taken in one piece or refused.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "metala/device/arena.h"
#include "metala/model/language_model.h"
#include "metala/train/task.h"

namespace metala {

class TrainingPass {
 public:
  // The model must outlive it. `sums`: as cross_entropy's, where the model lies. Without `replay`
  // every pass is enqueued kernel by kernel.
  TrainingPass(const LanguageModel&, Tensor sums, bool replay);

  // Adds the batch's loss to the sums, and `scale` times its gradient to those of the model's
  // parameters. Throws Error when a GPU has too little memory: what is wanted, what is free, which
  // flags need less. `context`: the ranks that share the batch's sequences, or null.
  void run(const LabelledBatch&, Communicator* context, double scale, const TrainingOptions&);

  // For passes that only compute.
  Arena& arena() { return arena_; }

 private:
  // What a recorded pass depends on, beside the contents of ids and labels.
  struct Kind {
    std::vector<std::int64_t> offsets;
    std::int64_t labelled = 0;
    double scale = 0;
    bool operator==(const Kind&) const = default;
  };
  struct Inputs {
    Batch batch;
    Ids labels;
  };

  void run_on_gpu(const LabelledBatch&, double scale, const TrainingOptions&);
  Inputs moved(const LabelledBatch&);
  void make_room(const Inputs&, const TrainingOptions&);
  std::size_t bytes_needed(const Inputs&, const TrainingOptions&) const;
  [[noreturn]] void refuse(const Inputs&, const TrainingOptions&, std::size_t needed,
                           std::size_t free, std::size_t memory) const;
  void enqueue(Arena&, const Inputs&, double scale, const TrainingOptions&) const;

  const LanguageModel& model_;
  const Tensor sums_;
  const bool replay_;
  Arena arena_;
  std::size_t roomy_tokens_ = 0, roomy_sequences_ = 0;  // that the arena has room for
  Tensor ids_, labels_, offsets_;                       // of passes, on the GPU
  Kind last_;
  std::function<void()> recording_;  // replays a pass of the last kind, if it was recorded
};

}  // namespace metala
