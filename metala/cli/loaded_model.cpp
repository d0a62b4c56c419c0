#include "metala/cli/loaded_model.h"

#include <fmt/format.h>

#include <filesystem>

#include "metala/train/run_folder.h"

namespace metala::cli {
namespace {

std::unique_ptr<Tokenizer> tokenizer_for(const std::string& folder, const Config& config,
                                         const LoadOptions& options) {
  if (!options.need_tokenizer) return nullptr;
  auto tokenizer = open_tokenizer(folder);
  require(tokenizer->size() <= config.vocab_size,
          "{}: the tokenizer has {} ids but the model's vocab_size is {}; they do not belong "
          "together",
          folder, tokenizer->size(), config.vocab_size);
  return tokenizer;
}

}  // namespace

std::string LoadedModel::fingerprint() const {
  return metala::fingerprint(checkpoint.config, checkpoint.tensors);
}

LoadedModel load_model(const std::string& named, const LoadOptions& options) {
  const std::string folder = resolve_model_folder(named);
  Checkpoint checkpoint = load_checkpoint(folder);
  for (const auto& note : checkpoint.notes) fmt::print(stderr, "note: {}\n", note);
  check_finite(checkpoint.tensors, folder);
  auto tokenizer = tokenizer_for(folder, checkpoint.config, options);
  LanguageModel model(checkpoint.config, Parameters(checkpoint.tensors));
  return {folder, std::move(checkpoint), std::move(model), std::move(tokenizer)};
}

}  // namespace metala::cli
