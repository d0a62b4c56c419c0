#include "metala/cli/loaded_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "metala/device/open_device.h"
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

Parameters parameters_on(Device device, const Checkpoint& checkpoint) {
  const Parameters parameters(checkpoint.tensors);
  if (device.is_cpu()) return parameters;
  const DType stored = checkpoint.tensors.at("model.embed_tokens.weight").dtype();
  return parameters.on(device, stored == DType::f32 ? DType::f32 : DType::bf16);
}

}  // namespace

std::string LoadedModel::fingerprint() const {
  return metala::fingerprint(checkpoint.config, checkpoint.tensors);
}

void take_special_ids(Config& config, const Tokenizer& tokenizer) {
  const std::int32_t end = tokenizer.eos();
  config.bos_token_id = tokenizer.bos() >= 0 ? tokenizer.bos() : end;
  config.pad_token_id = std::max(tokenizer.pad(), 0);
  config.eos_token_ids.clear();
  if (end >= 0) config.eos_token_ids.push_back(end);
}

LoadedModel load_model(const std::string& named, const LoadOptions& options) {
  const std::string folder = resolve_model_folder(named);
  return assemble_model(folder, load_checkpoint(folder), options);
}

LoadedModel assemble_model(const std::string& folder, Checkpoint checkpoint,
                           const LoadOptions& options) {
  for (const auto& note : checkpoint.notes) fmt::print(stderr, "note: {}\n", note);
  check_finite(checkpoint.tensors, folder);
  auto tokenizer = tokenizer_for(folder, checkpoint.config, options);
  LanguageModel model(checkpoint.config, parameters_on(open_device(options.device), checkpoint));
  return {folder, std::move(checkpoint), std::move(model), std::move(tokenizer)};
}

}  // namespace metala::cli
