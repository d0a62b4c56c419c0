// A run's folder: checkpoints that are complete Hugging Face folders, and resuming from them.
//
//   RUN/step-00000100/config.json, model.safetensors, tokenizer files   a model like any other
//                     optimizer.safetensors, trainer.json               what resuming needs besides
//                     COMPLETE                           sizes and checksums of all files; last
//       lock                                                            held while somebody trains
//
// Of n > 1 ranks each writes optimizer-R-of-N.safetensors, what it owns of the optimizer's state.
// Parts carry the name of their tensor and the range of its elements (zero_optimizer.h), so any
// number of ranks can resume from the parts of any other. All ranks must see the same folder.
//
// A checkpoint is written under another name and renamed when complete, so a run killed at any
// moment leaves whole checkpoints and at most one folder ending in ".partial", which is ignored
// and replaced.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "metala/base/tensor.h"
#include "metala/distributed/communicator.h"
#include "metala/model/config.h"
#include "metala/train/background_task.h"

namespace metala {

struct RunCheckpoint {
  std::int64_t step = 0;
  std::string folder;
};

// The complete checkpoint with the highest step, if there is one. Folders without COMPLETE, or with
// files whose sizes differ from those it lists, do not count.
std::optional<RunCheckpoint> newest_checkpoint(const std::string& run);

struct RunState {
  Config config;
  std::map<std::string, Tensor> parameters;
  // ZeroOptimizer::state: of this rank where it is saved, of all ranks where it was loaded.
  std::map<std::string, Tensor> optimizer;
  std::string trainer_json;        // options of the run, for checking a resume
  std::string configuration = {};  // of a run that has one, as YAML: run.yml
};

// A checkpoint that all ranks write together, RUN/step-N, while they go on. They make the objects,
// call `advance` and `finish` at the same moments. When a rank fails, nothing new is left behind
// and all throw. The oldest checkpoints beyond `keep` are removed (0: keep all).
class CheckpointSave {
 public:
  // `state` is called on a thread of its own and gives what this rank writes; on ranks other than 0
  // only its optimizer counts. `save_tokenizer` is given the folder to write its files into, on
  // rank 0.
  CheckpointSave(Communicator&, const std::string& run, std::int64_t step,
                 std::function<RunState()> state,
                 std::function<void(const std::string& folder)> save_tokenizer, std::int64_t keep);
  // What was not finished does not count as a checkpoint.
  ~CheckpointSave() = default;
  CheckpointSave(const CheckpointSave&) = delete;
  CheckpointSave& operator=(const CheckpointSave&) = delete;

  // Completes the checkpoint if the files of all ranks are there by now; whether it is complete.
  bool advance();
  // Waits for them and completes it.
  void finish();

 private:
  void write(const std::function<RunState()>& state,
             const std::function<void(const std::string& folder)>& save_tokenizer) const;
  void complete();

  Communicator& ranks_;
  const std::string run_, place_, aside_;
  const std::int64_t keep_;
  bool complete_ = false;
  BackgroundTask writing_;
};

// Reads every file and throws Error naming the first whose checksum is not the one in COMPLETE.
void verify_checkpoint_of_run(const RunCheckpoint&);

RunState load_checkpoint_of_run(const RunCheckpoint&);

// Held by whoever trains in RUN, and given up with the process, however it ends. Throws Error
// naming who holds it.
class RunLock {
 public:
  explicit RunLock(const std::string& run);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int file_;
};

// A model folder from what a user names: the folder itself when it holds config.json, else its
// newest complete checkpoint. Throws Error that says what was looked for.
std::string resolve_model_folder(const std::string& named);

}  // namespace metala
