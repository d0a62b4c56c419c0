// A model folder opened for use: weights mapped, tokenizer ready.
#pragma once

#include <memory>
#include <string>

#include "metala/model/checkpoint.h"
#include "metala/model/language_model.h"
#include "metala/text/tokenizer.h"

namespace metala::cli {

struct LoadedModel {
  std::string folder;
  Checkpoint checkpoint;
  LanguageModel model;
  std::unique_ptr<Tokenizer> tokenizer;  // null if the folder has none and none was needed

  std::string fingerprint() const;  // reads all weights once
};

struct LoadOptions {
  bool need_tokenizer = false;
  std::string device = "cpu";  // cpu, cuda, cuda:1: where the model runs
};

// `named` is a model folder or a training run's folder. Prints the checkpoint's notes to stderr.
// On a GPU weights stored in 16 bits run as bf16, others as f32; the checkpoint stays on the CPU.
// Throws Error for weights that are NaN or infinite, and for a tokenizer larger than the model's
// vocabulary.
LoadedModel load_model(const std::string& named, const LoadOptions&);
// The same from a checkpoint of `folder` that is loaded already.
LoadedModel assemble_model(const std::string& folder, Checkpoint, const LoadOptions&);

// What a new model's configuration says of its tokenizer's special tokens. Where that has no end
// token the model has none; where it has no beginning, its end begins a text.
void take_special_ids(Config&, const Tokenizer&);

}  // namespace metala::cli
