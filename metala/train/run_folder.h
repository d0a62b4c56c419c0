// A run's folder: checkpoints that are complete Hugging Face folders, and resuming from them.
//
//   RUN/step-00000100/config.json, model.safetensors, tokenizer files   a model like any other
//                     optimizer.safetensors, trainer.json               what resuming needs besides
//                     COMPLETE                                          sizes of all files; last
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
#include "metala/model/config.h"

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
  std::map<std::string, Tensor> optimizer;  // Trainer::optimizer_tensors
  std::string trainer_json;                 // options of the run, for checking a resume
};

// Writes RUN/step-N and removes the oldest checkpoints beyond `keep` (0: keep all).
// `save_tokenizer` is given the folder to write its files into.
void save_checkpoint_of_run(const std::string& run, std::int64_t step, const RunState&,
                            const std::function<void(const std::string& folder)>& save_tokenizer,
                            std::int64_t keep);

RunState load_checkpoint_of_run(const RunCheckpoint&);

// A model folder from what a user names: the folder itself when it holds config.json, else its
// newest complete checkpoint. Throws Error that says what was looked for.
std::string resolve_model_folder(const std::string& named);

}  // namespace metala
