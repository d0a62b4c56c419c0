// The options of `metala train`: what flags, presets and configuration files leave to do.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "metala/cli/ranks.h"
#include "metala/cli/train_data.h"
#include "metala/model/config.h"
#include "metala/train/mqar_task.h"
#include "metala/train/run_config.h"
#include "metala/train/trainer.h"

namespace metala::cli {

struct TrainCommand {
  std::string task = "text";
  std::string output;
  std::string preset;  // empty: tiny, or the model's that a run goes on with
  std::string init_from;
  bool resume = false;
  TextDataOptions data;
  MqarOptions mqar;
  Config config;
  std::int64_t width = 0, layers = 0, heads = 0, glu_width = 0;  // 0: the preset's
  bool untied = false;
  std::string initialization;
  TrainerOptions trainer;
  std::int64_t steps = 0;
  double learning_rate = 0, low_rate = -1, warmup = -1;
  std::optional<double> beta2;
  std::string schedule = "cosine";
  std::int64_t keep = 2;
  std::int64_t sample_every = 0;
  std::string sample_prompt;
  std::uint64_t seed = 0;
  std::string device = "cpu";
  std::string dtype;
  RankOptions ranks;
  bool reset_at_documents = false;       // prepared data only
  std::int64_t validation_batches = 64;  // prepared data only: micro batches of an evaluation
  std::int64_t log_every = 0;
  double peak_tflops = 0;             // of a device; 0: unknown
  std::vector<std::string> settings;  // KEY=VALUE over a configuration

  // Of configuration files (then everything above follows from it), or made of flags for prepared
  // data.
  std::optional<RunConfig> run;
  bool configured = false;
};

void add_train_options(CLI::App&, TrainCommand&);

// What was not given, from the preset and the tokenizer, or from Zoology's model for recall.
void apply_text_defaults(TrainCommand&, const Tokenizer&);
void apply_mqar_defaults(TrainCommand&);

// The run that prepared data and flags describe, with `tokenizer` instead of the data's own unless
// empty.
RunConfig run_of_flags(const TrainCommand&, const std::string& tokenizer);

// The fields that a configuration decides, except those that wait for the number of ranks or the
// data.
void adopt_configuration(TrainCommand&, const RunConfig&);

}  // namespace metala::cli
