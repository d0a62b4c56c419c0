#include "metala/cli/train_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>
#include <utility>

#include "metala/base/error.h"
#include "metala/data/token_dataset.h"
#include "metala/io/file.h"

namespace metala::cli {
namespace {

constexpr std::size_t largest_configuration = std::size_t{1} << 20;

bool is_configuration(const std::string& name) {
  return name.ends_with(".yml") || name.ends_with(".yaml");
}

// Flags and the keys they stand for.
constexpr auto flag_keys = std::to_array<std::pair<std::string_view, std::string_view>>({
    {"--output", "save"},
    {"--width", "hidden_size"},
    {"--layers", "num_layers"},
    {"--heads", "num_attention_heads"},
    {"--glu-width", "intermediate_size"},
    {"--untied", "no_weight_tying"},
    {"--sequence-length", "seq_length"},
    {"--sequences", "train_micro_batch_size_per_gpu"},
    {"--accumulation", "gradient_accumulation_steps"},
    {"--steps", "train_iters"},
    {"--learning-rate", "optimizer.params.lr"},
    {"--low-rate", "min_lr"},
    {"--schedule", "lr_decay_style"},
    {"--weight-decay", "weight_decay"},
    {"--clip", "gradient_clipping"},
    {"--recompute", "checkpoint_activations"},
    {"--seed", "seed"},
    {"--device", "metala.device"},
    {"--tokenizer", "metala.tokenizer"},
    {"--reset-at-documents", "metala.reset_state_at_documents"},
    {"--validate-every", "eval_interval"},
    {"--save-every", "checkpoint_factor"},
    {"--keep", "keep_last_n_checkpoints"},
    {"--log-every", "log_interval"},
});

// Flags about how a run is shown or started, which no key stands for.
constexpr auto free_flags = std::to_array<std::string_view>(
    {"--resume", "--set", "--skip-spikes", "--peak-tflops", "--sample-every", "--sample-prompt",
     "--stop-at-accuracy", "--context-ranks", "--bucket-size", "--rank", "--ranks", "--local-rank",
     "--master", "--communication-timeout"});

using Overrides = std::vector<std::pair<std::string, std::string>>;

Overrides overrides_of(const CLI::App& train, const std::vector<std::string>& settings) {
  Overrides overrides;
  for (const CLI::Option* option : train.get_options()) {
    if (option->count() == 0 || option->get_positional()) continue;
    const std::string flag = "--" + option->get_lnames().front();
    if (flag == "--dtype") {
      const std::string type = option->results().front();
      overrides.emplace_back("precision", type == "bf16"  ? "bfloat16"
                                          : type == "f16" ? "fp16"
                                                          : "fp32");
      continue;
    }
    if (flag == "--init-from") {
      overrides.emplace_back("load", option->results().front());
      overrides.emplace_back("finetune", "true");
      continue;
    }
    const auto key = std::find_if(flag_keys.begin(), flag_keys.end(),
                                  [&](const auto& pair) { return pair.first == flag; });
    if (key != flag_keys.end()) {
      const bool takes_value = option->get_items_expected_max() > 0;
      overrides.emplace_back(key->second, takes_value ? option->results().front() : "true");
    } else if (std::find(free_flags.begin(), free_flags.end(), flag) == free_flags.end()) {
      throw UsageError(fmt::format(
          "{} is not for runs with a configuration; set its keys with --set KEY=VALUE", flag));
    }
  }
  for (const auto& setting : settings) {
    const std::size_t equals = setting.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw UsageError(fmt::format("--set {}: wanted KEY=VALUE", setting));
    }
    std::string key = setting.substr(0, equals);
    std::replace(key.begin(), key.end(), '-', '_');
    overrides.emplace_back(key, setting.substr(equals + 1));
  }
  return overrides;
}

// Flags of a batch size replace all three numbers that must fit together.
void forget_derived_batch(Overrides& overrides) {
  const auto given = [&](const char* key) {
    return std::any_of(overrides.begin(), overrides.end(),
                       [&](const auto& o) { return o.first == key; });
  };
  const bool parts =
      given("train_micro_batch_size_per_gpu") || given("gradient_accumulation_steps");
  if (parts && !given("train_batch_size")) overrides.emplace_back("train_batch_size", "0");
}

// Files that go on in the folder they save to do so too in one that a flag names instead.
void move_folder(const std::vector<RunConfigFile>& files, Overrides& overrides) {
  const auto find = [&](const char* key) {
    return std::find_if(overrides.begin(), overrides.end(),
                        [&](const auto& o) { return o.first == key; });
  };
  const auto save = find("save");
  if (save == overrides.end() || find("load") != overrides.end()) return;
  const RunConfig written = parse_run_config(files, {}).config;
  if (written.load.empty() || written.load != written.save) return;
  const std::string folder = save->second;
  overrides.emplace_back("load", folder);
}

}  // namespace

std::optional<ParsedRunConfig> run_configuration(const CLI::App& train,
                                                 const std::vector<std::string>& inputs,
                                                 const std::vector<std::string>& settings) {
  const auto count = std::count_if(inputs.begin(), inputs.end(), is_configuration);
  if (count == 0) {
    if (!settings.empty()) {
      throw UsageError("--set changes a key of a configuration; name one: metala train CONFIG.yml");
    }
    return std::nullopt;
  }
  if (count != static_cast<std::ptrdiff_t>(inputs.size())) {
    throw UsageError(
        "name configurations (.yml) or text, not both; a configuration names its data");
  }
  std::vector<RunConfigFile> files;
  for (const auto& input : inputs) {
    files.push_back({read_file(input, largest_configuration), input});
  }
  Overrides overrides = overrides_of(train, settings);
  forget_derived_batch(overrides);
  move_folder(files, overrides);
  return parse_run_config(files, overrides);
}

bool names_prepared_data(const std::vector<std::string>& inputs) {
  const auto prepared = [](const std::string& input) {
    return std::filesystem::exists(dataset_prefix(input) + ".idx");
  };
  const auto count = std::count_if(inputs.begin(), inputs.end(), prepared);
  if (count != 0 && count != static_cast<std::ptrdiff_t>(inputs.size())) {
    throw UsageError("name text or prepared datasets, not both");
  }
  return count > 0;
}

}  // namespace metala::cli
