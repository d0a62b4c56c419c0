// What `metala train` learns from, assembled from its options.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "metala/data/choose_tokenizer.h"
#include "metala/data/documents.h"
#include "metala/text/tokenizer.h"
#include "metala/train/text_task.h"

namespace metala::cli {

struct TextDataOptions {
  std::vector<std::string> inputs, validation_inputs;
  DocumentOptions documents;
  double validation_share = 0.01;  // of the training tokens' end, without validation_inputs
  TokenizerChoice tokenizer;
  TextTaskOptions task;
};

// `reuse`, if not empty, is a model folder whose tokenizer is taken instead of the option's.
std::unique_ptr<Tokenizer> tokenizer_for_training(const TextDataOptions&, const std::string& reuse);

// Reads and tokenises everything, with a progress bar.
std::unique_ptr<TextTask> text_task(const TextDataOptions&, const Tokenizer&);

}  // namespace metala::cli
