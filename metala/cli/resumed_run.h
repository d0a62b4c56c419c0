// What a run of `metala train` notes of itself, what a resumed one must share with it, and what all
// ranks must.
#pragma once

#include <cstdint>
#include <string>

#include "metala/cli/train_options.h"
#include "metala/distributed/agreement.h"
#include "metala/train/task.h"
#include "metala/train/trainer.h"

namespace metala::cli {

// A run whose options are settled.
struct SettledRun {
  const TrainCommand& options;
  int ranks = 1;
  std::int64_t training_tokens = 0;  // of prepared data

  // trainer.json: the record of how a model was made. With a trainer, also what its loss scaler has
  // come to.
  std::string record(const Trainer* = nullptr) const;

  // Throws Error naming the first option of `saved`, an earlier record, that is another now. The
  // micro batches of a step may be divided among another number of ranks.
  void check_same(const std::string& saved) const;

  // Throws AgreedError on all ranks, naming the option, unless all have the same options, model and
  // data.
  void require_same_on(Communicator&, const TrainingTask&) const;
};

// Throws Error, naming key or flag, unless the model in the folder `where` is the one that the
// options describe.
void check_same_model(const TrainCommand&, const Config& there, const std::string& where);

// What a checkpoint's record and the run's metrics know of the steps before.
void restore_scaler(Trainer&, const std::string& saved);
void remember_steps(Trainer&, const TrainCommand&);

}  // namespace metala::cli
