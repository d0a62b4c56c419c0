// metala convert: a model folder with weights of another type or for another framework.
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "metala/base/random.h"
#include "metala/cli/checks.h"
#include "metala/cli/commands.h"
#include "metala/cli/companions.h"
#include "metala/cli/loaded_model.h"
#include "metala/cli/neox_options.h"
#include "metala/cli/text_windows.h"
#include "metala/eval/divergence.h"
#include "metala/model/checkpoint.h"
#include "metala/model/neox.h"
#include "metala/model/neox_writer.h"
#include "metala/quantization/calibrate.h"
#include "metala/train/progress.h"

namespace metala::cli {
namespace {

namespace fs = std::filesystem;

const std::map<std::string, DType> types = {{"f32", DType::f32},
                                            {"bf16", DType::bf16},
                                            {"f16", DType::f16},
                                            {"q8", DType::q8},
                                            {"q4", DType::q4}};

struct Options {
  std::string source, destination;
  std::string to = "hf";
  std::string dtype = "bf16";
  std::uint64_t shard_megabytes = 5000;
  std::vector<std::string> text;
  std::int64_t tokens = 100'000;
  std::vector<std::string> calibrate;
  std::int64_t calibrate_tokens = 65'536;
  bool no_check = false;
  NeoxOptions neox;
};

// A tokenizer's files, and the folder of templates beside the main one.
bool goes_along(const fs::path& file) {
  static const std::vector<std::string> names = {
      "tokenizer.model",         "tokenizer.json",    "tokenizer_config.json",
      "special_tokens_map.json", "added_tokens.json", "additional_chat_templates"};
  const std::string name = file.filename().string();
  return std::find(names.begin(), names.end(), name) != names.end() ||
         name.ends_with(".tiktoken") || name.ends_with(".tiktoken.json");
}

// Of the texts to compare on, or random ids where there are none.
Sequences check_sequences(const Options& options, const LoadedModel& source) {
  if (!options.text.empty()) {
    Sequences sequences =
        first_windows(options.text, options.tokens, *open_tokenizer(source.folder));
    require(!sequences.ids.empty(), "convert: the texts to compare on are empty");
    return sequences;
  }
  std::vector<std::int32_t> ids(256);
  const Philox random(0, 0);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int32_t>(
        random.block(i)[0] % static_cast<std::uint64_t>(source.model.config().vocab_size));
  }
  Sequences sequences;
  sequences.add(ids);
  return sequences;
}

// The tensors to write: rounded with an eye on a text, if one is given.
std::map<std::string, Tensor> tensors_of(const Options& options, const LoadedModel& source) {
  const Checkpoint& given = source.checkpoint;
  if (options.calibrate.empty()) return given.tensors;
  const Sequences on = scattered_windows(options.calibrate, options.calibrate_tokens,
                                         *open_tokenizer(source.folder));
  require(!on.ids.empty(), "convert: the texts to calibrate on are empty");
  ProgressBar bar("calibrating", static_cast<double>(given.config.layers), "layers");
  auto tensors =
      calibrated(given.config, given.tensors, types.at(options.dtype), on.ids, on.offsets,
                 [&](std::int64_t layers) { bar.update(static_cast<double>(layers)); });
  bar.finish();
  fmt::print("calibrated on {} tokens\n", on.ids.size());
  return tensors;
}

void print_divergence(const Divergence& d, bool of_text) {
  fmt::print(
      "on {} {} tokens: logits within {:.2g} of the largest, same best token {:.2f}%, "
      "KL {:.3g} nats a token (largest {:.3g})\n",
      d.tokens, of_text ? "held-out" : "random", d.logit_error, 100 * d.same_best, d.kl,
      d.largest_kl);
  if (!of_text) return;
  fmt::print("perplexity {:.4f}, was {:.4f} ({:+.3f}%)\n", d.other_perplexity,
             d.original_perplexity, 100 * (d.other_perplexity / d.original_perplexity - 1));
}

LoadedModel open_source(const Options& options) {
  const std::string& source = options.source;
  if (fs::exists(fs::path(source) / "config.json") || !is_neox_folder(source)) {
    refuse_neox_options(options.neox, source);
    return load_model(source, {.need_tokenizer = false});
  }
  Checkpoint checkpoint = load_neox(source, options.neox);
  if (const auto tokenizer = find_tokenizer(source)) {
    take_special_ids(checkpoint.config, *tokenizer);
  } else {
    checkpoint.notes.push_back(fmt::format(
        "{}: no tokenizer beside it says which tokens begin and end a text; bos_token_id {} and "
        "eos_token_id {} are assumed",
        source, checkpoint.config.bos_token_id, checkpoint.config.eos_token_ids.front()));
  }
  return assemble_model(source, std::move(checkpoint), {.need_tokenizer = false});
}

void write(const Options& options, const std::string& folder, const Config& config,
           const std::map<std::string, Tensor>& tensors) {
  const DType dtype = types.at(options.dtype);
  if (options.to == "neox") return save_neox(folder, config, tensors, dtype);
  save_checkpoint(folder, config, tensors, dtype, options.shard_megabytes * 1'000'000,
                  options.to == "torch" ? TensorFormat::torch : TensorFormat::safetensors);
}

LoadedModel reopen(const Options& options, const std::string& folder) {
  Checkpoint checkpoint = options.to == "neox" ? load_neox(folder) : load_checkpoint(folder);
  return assemble_model(folder, std::move(checkpoint), {.need_tokenizer = false});
}

// The model with its weights in float32: it makes the sums of one that is stored so, in their
// order.
LanguageModel widened(const LoadedModel& source) {
  return {source.checkpoint.config, Parameters(source.checkpoint.tensors).cast(DType::f32)};
}

void run(const Options& options) {
  const DType dtype = types.at(options.dtype);
  if (options.to != "hf" && in_blocks(dtype)) {
    throw UsageError(fmt::format("--dtype {} is metala's own; --to {} takes f32, bf16 and f16",
                                 options.dtype, options.to));
  }
  if (!options.calibrate.empty() && !in_blocks(dtype)) {
    throw UsageError(fmt::format("--calibrate is for --dtype q8 and q4, not {}", options.dtype));
  }
  const LoadedModel source = open_source(options);
  fs::path destination = fs::path(options.destination).lexically_normal();
  if (!destination.has_filename()) destination = destination.parent_path();  // it ended in a slash
  require(!fs::exists(destination), "{}: exists; name a folder that does not", options.destination);
  const fs::path partial = destination.string() + ".partial";
  fs::remove_all(partial);
  fs::create_directories(partial);
  write(options, partial.string(), source.checkpoint.config, tensors_of(options, source));
  for (const auto& entry : fs::directory_iterator(source.folder)) {
    if (!goes_along(entry.path())) continue;
    fs::copy(entry.path(), partial / entry.path().filename(), fs::copy_options::recursive);
  }
  write_companions(read_companions(source.folder), partial.string());
  if (!options.no_check) {
    const LoadedModel converted = reopen(options, partial.string());
    const Sequences on = check_sequences(options, source);
    const bool exact = dtype == DType::f32;
    const Divergence d =
        divergence(exact ? widened(source) : source.model, converted.model, on.ids, on.offsets);
    print_divergence(d, !options.text.empty());
    require(d.logit_error <= (exact ? 1e-6 : 1),
            "{}: the converted model predicts otherwise; it is kept as {}", options.destination,
            partial.string());
  }
  fs::rename(partial, destination);
  double bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(destination)) {
    if (entry.is_regular_file()) bytes += static_cast<double>(entry.file_size());
  }
  fmt::print("{}: {:.1f} MB\n", options.destination, bytes / 1e6);
}

}  // namespace

void add_convert(CLI::App& app) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command =
      app.add_subcommand("convert", "Write a model with weights of another type or format");
  command
      ->add_option("source", o.source,
                   "Model folder (safetensors or PyTorch), a training run's folder, or GPT-NeoX's")
      ->required();
  command->add_option("destination", o.destination, "Folder to make")->required();
  command
      ->add_option("--to", o.to,
                   "hf (config.json and safetensors), torch (pytorch_model.bin) or neox")
      ->capture_default_str()
      ->check(CLI::IsMember({"hf", "torch", "neox"}));
  command->add_option("--dtype", o.dtype, "f32, bf16, f16, q8 or q4")
      ->capture_default_str()
      ->check(CLI::IsMember({"f32", "bf16", "f16", "q8", "q4"}));
  command->add_option("--shard-size", o.shard_megabytes, "Megabytes of a weights file at most")
      ->capture_default_str()
      ->check(positive());
  command->add_option("--text", o.text,
                      "Compare both models' perplexity on these files (as train reads them)");
  command->add_option("--tokens", o.tokens, "Tokens of --text to compare on")
      ->capture_default_str()
      ->needs("--text")
      ->check(positive());
  command->add_option("--calibrate", o.calibrate,
                      "q8, q4: texts like those the model will meet; weights are rounded so that "
                      "its answers to them change least (slower; other texts than --text)");
  command->add_option("--calibrate-tokens", o.calibrate_tokens, "Tokens of --calibrate to read")
      ->capture_default_str()
      ->needs("--calibrate")
      ->check(positive());
  command->add_flag("--no-check", o.no_check, "Do not compare the models' predictions")
      ->excludes("--text");
  add_neox(command, o.neox);
  command->callback([options] { run(*options); });
}

}  // namespace metala::cli
