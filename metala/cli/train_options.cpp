#include "metala/cli/train_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "metala/cli/checks.h"
#include "metala/cli/loaded_model.h"
#include "metala/data/token_dataset.h"

namespace metala::cli {
namespace {

struct Preset {
  const char* name;
  std::int64_t width, layers, heads, glu_width;
};

// Key width 32 or 64 a head, value width twice that, as in the released models.
constexpr Preset presets[] = {{"nano", 128, 2, 2, 256},
                              {"tiny", 256, 4, 4, 704},
                              {"small", 384, 6, 6, 1024},
                              {"medium", 512, 8, 8, 1408},
                              {"360m", 1024, 24, 8, 2816}};

void add_data_options(CLI::App& command, TrainCommand& o) {
  command.add_option(
      "inputs", o.data.inputs,
      "Text files, folders, .jsonl files; prepared datasets; or configurations (.yml)");
  command.add_option("--task", o.task, "text: predict it; mqar: multi-query associative recall")
      ->capture_default_str()
      ->check(CLI::IsMember({"text", "mqar"}));
  command.add_option("--validation", o.data.validation_inputs,
                     "Text to validate on; repeatable; default: the end of the training text");
  command
      .add_option("--validation-share", o.data.validation_share,
                  "Share of the training text kept for validation")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 0.5));
  command.add_option("--text-field", o.data.documents.text_field, "Field of .jsonl lines")
      ->capture_default_str();
  command.add_flag("--replace-invalid", o.data.documents.replace_invalid,
                   "Replace what is not UTF-8 instead of stopping");
  command
      .add_option("--tokenizer", o.data.tokenizer.name,
                  "bytes; sentencepiece (learned from the text); or a tokenizer file or folder")
      ->capture_default_str();
  command.add_flag("--reset-at-documents", o.reset_at_documents,
                   "Prepared data: start every document from an empty state");
  command
      .add_option("--validation-batches", o.validation_batches,
                  "Prepared data: micro batches of an evaluation")
      ->capture_default_str()
      ->check(positive());
  command.add_option("--set", o.settings,
                     "KEY=VALUE: replaces a key of the configuration; repeatable");
  command.add_option("--vocab-size", o.data.tokenizer.vocabulary, "Pieces of a learned vocabulary")
      ->capture_default_str()
      ->check(CLI::Range(300, 1000000));
  command.add_option("--mqar-length", o.mqar.length, "mqar: tokens of an example")
      ->capture_default_str();
  command.add_option("--mqar-pairs", o.mqar.pairs, "mqar: key-value pairs")->capture_default_str();
  command.add_flag("--mqar-random-filler", o.mqar.random_filler,
                   "mqar: random tokens between the queries");
}

void add_model_options(CLI::App& command, TrainCommand& o) {
  command.add_option("--preset", o.preset, "Size: nano, tiny, small, medium, 360m; default: tiny")
      ->check(CLI::IsMember({"nano", "tiny", "small", "medium", "360m"}));
  const auto size = [&](const char* name, std::int64_t& value, const char* help) {
    command.add_option(name, value, help)->check(positive());
  };
  size("--width", o.width, "Model width d; default: the preset's");
  size("--layers", o.layers, "Layers");
  size("--heads", o.heads, "Heads");
  size("--glu-width", o.glu_width, "Width of the gated unit");
  command.add_flag("--untied", o.untied, "A head of its own instead of the embedding");
  command.add_option("--initialization", o.initialization, "small, normal or scaled")
      ->check(CLI::IsMember({"small", "normal", "scaled"}));
  command.add_option("--init-from", o.init_from, "Start from the weights of this model or run");
}

void add_optimizer_options(CLI::App& command, TrainCommand& o) {
  const auto count = [&](const char* name, std::int64_t& value, const char* help) {
    command.add_option(name, value, help)->capture_default_str()->check(positive());
  };
  count("--sequence-length", o.data.task.length, "Tokens of a training sequence");
  command
      .add_option_function<std::int64_t>(
          "--sequences", [&o](std::int64_t n) { o.data.task.sequences = o.mqar.batch = n; },
          "Sequences in a micro batch (text: 16, mqar: 128)")
      ->check(positive());
  count("--accumulation", o.trainer.accumulation,
        "Micro batches of each rank, or group of --context-ranks, in a step");
  command.add_option("--steps", o.steps, "Steps of the whole run")->check(positive());
  command.add_option("--learning-rate", o.learning_rate, "Peak learning rate")->check(positive());
  command.add_option("--low-rate", o.low_rate, "Last learning rate; default: a tenth of the peak")
      ->check(not_negative());
  command.add_option("--warmup", o.warmup, "Warmup steps")->check(not_negative());
  command.add_option("--schedule", o.schedule, "cosine, linear, exponential, constant, wsd")
      ->capture_default_str()
      ->check(CLI::IsMember({"cosine", "linear", "exponential", "constant", "wsd"}));
  command.add_option("--weight-decay", o.trainer.adamw.weight_decay, "Of matrices")
      ->capture_default_str()
      ->check(not_negative());
  command.add_option("--beta2", o.beta2, "AdamW's second beta (text: 0.95, mqar: 0.999)")
      ->check(CLI::Range(0.0, 0.9999999));
  command.add_option("--clip", o.trainer.adamw.clip, "Largest gradient norm; 0: no clipping")
      ->capture_default_str()
      ->check(not_negative());
  command.add_flag("--recompute", o.trainer.model.recompute_blocks,
                   "Less memory: run each block again in the backward pass");
  command.add_option("--seed", o.seed, "Of weights, order of data, dropout")
      ->capture_default_str()
      ->check(seed());
  add_device(&command, o.device);
  command
      .add_option("--dtype", o.dtype,
                  "What is computed in; bf16 and f16 (with dynamic loss scaling), on a GPU, keep "
                  "weights and their updates in f32. Default: bf16 on a GPU, f32 on the CPU")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}));
}

void add_run_options(CLI::App& command, TrainCommand& o) {
  command.add_option("-o,--output", o.output, "The run's folder");
  command.add_flag("--resume", o.resume, "Go on from the newest complete checkpoint in --output");
  command.add_option("--validate-every", o.trainer.validate_every, "Steps; 0: only at the end")
      ->capture_default_str()
      ->check(not_negative());
  command.add_option("--save-every", o.trainer.save.every, "Steps; 0: only at the end")
      ->capture_default_str()
      ->check(not_negative());
  command.add_option("--keep", o.keep, "Checkpoints to keep; 0: all")
      ->capture_default_str()
      ->check(not_negative());
  command
      .add_option("--skip-spikes", o.trainer.skip_spikes_above,
                  "Leave out steps whose loss or gradient norm stands out by so many deviations; "
                  "0: none")
      ->check(not_negative());
  command
      .add_option("--peak-tflops", o.peak_tflops,
                  "Teraflops a second that a device could do at most, for utilisation (MFU); many "
                  "GPUs are known")
      ->check(positive());
  command.add_option("--log-every", o.log_every, "Print a line every so many steps; 0: never")
      ->check(not_negative());
  command
      .add_option("--sample-every", o.sample_every, "Show a sample every so many steps; 0: never")
      ->capture_default_str()
      ->check(not_negative());
  command.add_option("--sample-prompt", o.sample_prompt, "What samples continue");
  command
      .add_option("--stop-at-accuracy", o.trainer.stop_at_accuracy,
                  "End once validation accuracy reaches this (mqar: 0.99)")
      ->check(not_negative());
}

}  // namespace

void add_train_options(CLI::App& command, TrainCommand& o) {
  const auto group = [&](const char* name) { command.option_defaults()->group(name); };
  group("Data");
  add_data_options(command, o);
  group("Model");
  add_model_options(command, o);
  group("Optimisation");
  add_optimizer_options(command, o);
  group("The run");
  add_run_options(command, o);
  group("Ranks");
  command
      .add_option("--context-ranks", o.trainer.context_ranks,
                  "Ranks that share each sequence (context parallelism)")
      ->capture_default_str()
      ->check(positive());
  command
      .add_option_function<double>(
          "--bucket-size",
          [&o](double mib) { o.trainer.bucket_bytes = static_cast<std::int64_t>(mib * (1 << 20)); },
          "MiB of gradients that ranks sum at once; default: 2 for each rank, from 128 to 1024")
      ->check(number("above 0 and at most 2^20", [](double x) { return x > 0 && x <= 1 << 20; }));
  add_rank_options(command, o.ranks);
}

void apply_text_defaults(TrainCommand& o, const Tokenizer& tokenizer) {
  const std::string name = o.preset.empty() ? "tiny" : o.preset;
  const auto* preset = std::find_if(std::begin(presets), std::end(presets),
                                    [&](const Preset& p) { return name == p.name; });
  Config& c = o.config;
  const auto given = [](std::int64_t option, std::int64_t otherwise) {
    return option > 0 ? option : otherwise;
  };
  c.width = given(o.width, preset->width);
  c.layers = given(o.layers, preset->layers);
  c.heads = given(o.heads, preset->heads);
  c.glu_width = given(o.glu_width, preset->glu_width);
  c.vocab_size = tokenizer.size();
  take_special_ids(c, tokenizer);
  c.tie_word_embeddings = !o.untied;
  c.query_width = c.width / 2;
  if (o.initialization.empty()) o.initialization = "small";
  if (o.steps == 0) o.steps = 1000;
  if (o.learning_rate == 0) o.learning_rate = 1e-3;
  if (o.low_rate < 0) o.low_rate = o.learning_rate / 10;
  if (o.warmup < 0) o.warmup = std::min(100.0, static_cast<double>(o.steps) / 20);
  o.trainer.adamw.beta2 = o.beta2.value_or(0.95);
}

void apply_mqar_defaults(TrainCommand& o) {
  Config& c = o.config;
  const auto given = [](std::int64_t option, std::int64_t otherwise) {
    return option > 0 ? option : otherwise;
  };
  c.width = given(o.width, 64);
  c.layers = given(o.layers, 2);
  c.heads = given(o.heads, 2);
  c.glu_width = c.width;
  c.vocab_size = o.mqar.vocabulary;
  c.query_width = c.width;
  c.short_conv_width = 2;
  c.norm = NormType::layernorm;
  c.channel_mixer = ChannelMixer::identity;
  c.tie_word_embeddings = !o.untied;
  c.embedding_dropout = 0.1;
  if (o.initialization.empty()) o.initialization = "scaled";
  if (o.steps == 0) o.steps = 1500;
  if (o.learning_rate == 0) o.learning_rate = 5e-3;
  if (o.low_rate < 0) o.low_rate = 0;
  if (o.warmup < 0) o.warmup = 50;
  o.trainer.adamw.beta2 = o.beta2.value_or(0.999);
  o.trainer.decay_all = true;
  if (o.trainer.stop_at_accuracy > 1) o.trainer.stop_at_accuracy = 0.99;
}

RunConfig run_of_flags(const TrainCommand& o, const std::string& tokenizer) {
  RunConfig c;
  c.seq_length = o.data.task.length;
  c.train_micro_batch_size_per_gpu = o.data.task.sequences;
  c.gradient_accumulation_steps = o.trainer.accumulation;
  c.train_iters = o.steps > 0 ? o.steps : 1000;
  c.eval_interval = o.trainer.validate_every;
  c.eval_iters = std::max<std::int64_t>(1, o.validation_batches / c.gradient_accumulation_steps);
  c.seed = static_cast<std::int64_t>(o.seed & 0xffffffff);
  c.tokenizer = tokenizer;
  c.reset_state_at_documents = o.reset_at_documents;
  if (o.data.inputs.size() == 1 && o.data.validation_inputs.empty()) {
    c.data_path = o.data.inputs.front();
    c.split = fmt::format("{}, {}", 1 - o.data.validation_share, o.data.validation_share);
    return c;
  }
  c.train_data_paths = o.data.inputs;
  c.valid_data_paths = o.data.validation_inputs;
  for (const auto& path : c.train_data_paths) {  // as if they were one dataset
    c.train_data_weights.push_back(static_cast<double>(TokenDataset::open(path).tokens()));
  }
  return c;
}

void adopt_configuration(TrainCommand& o, const RunConfig& c) {
  o.run = c;
  o.configured = true;
  o.task = "packed";
  o.output = c.save;
  if (c.finetune) o.init_from = c.load;
  o.seed = static_cast<std::uint64_t>(c.seed);
  o.device = c.device;
  o.keep = c.keep_last_n_checkpoints;
  o.log_every = c.log_interval;
  o.schedule = c.lr_decay_style;
  o.initialization = c.init_method + ", " + c.output_layer_init_method;
  if (!c.precision.empty()) {
    o.dtype = c.precision == "fp32" ? "f32" : c.precision == "fp16" ? "f16" : "bf16";
  }
}

}  // namespace metala::cli
