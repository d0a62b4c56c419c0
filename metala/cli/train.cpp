// metala train: learn from text, or associative recall.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "metala/base/threads.h"
#include "metala/cli/checks.h"
#include "metala/cli/commands.h"
#include "metala/cli/interrupt.h"
#include "metala/cli/ranks.h"
#include "metala/cli/train_data.h"
#include "metala/distributed/agreement.h"
#include "metala/generate/generator.h"
#include "metala/generate/text_stream.h"
#include "metala/io/json.h"
#include "metala/model/checkpoint.h"
#include "metala/train/metrics.h"
#include "metala/train/mqar_task.h"
#include "metala/train/plot.h"
#include "metala/train/progress.h"
#include "metala/train/run_folder.h"
#include "metala/train/trainer.h"

namespace metala::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string task = "text";
  std::string output;
  std::string preset = "tiny";
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
  std::string schedule = "cosine";
  std::int64_t keep = 2;
  std::int64_t sample_every = 0;
  std::string sample_prompt;
  std::uint64_t seed = 0;
  std::string device = "cpu";
  std::string dtype;
  RankOptions ranks;
};

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

void apply_text_defaults(Options& o, const Tokenizer& tokenizer) {
  const auto* preset = std::find_if(std::begin(presets), std::end(presets),
                                    [&](const Preset& p) { return o.preset == p.name; });
  Config& c = o.config;
  const auto given = [](std::int64_t option, std::int64_t otherwise) {
    return option > 0 ? option : otherwise;
  };
  c.width = given(o.width, preset->width);
  c.layers = given(o.layers, preset->layers);
  c.heads = given(o.heads, preset->heads);
  c.glu_width = given(o.glu_width, preset->glu_width);
  c.vocab_size = tokenizer.size();
  c.bos_token_id = tokenizer.bos() >= 0 ? tokenizer.bos() : tokenizer.eos();
  c.pad_token_id = std::max(tokenizer.pad(), 0);
  c.eos_token_ids = {tokenizer.eos()};
  c.tie_word_embeddings = !o.untied;
  c.query_width = c.width / 2;
  if (o.initialization.empty()) o.initialization = "small";
  if (o.steps == 0) o.steps = 1000;
  if (o.learning_rate == 0) o.learning_rate = 1e-3;
  if (o.low_rate < 0) o.low_rate = o.learning_rate / 10;
  if (o.warmup < 0) o.warmup = std::min(100.0, static_cast<double>(o.steps) / 20);
}

// Zoology's model for recall (docs/training.md).
void apply_mqar_defaults(Options& o) {
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
  o.trainer.adamw.beta2 = 0.999;
  o.trainer.decay_all = true;
  if (o.trainer.stop_at_accuracy > 1) o.trainer.stop_at_accuracy = 0.99;
}

class Run {
 public:
  Run(Options& options, Communicator& ranks, Device device) : o_(options), ranks_(ranks) {
    o_.trainer.device = device;
  }

  void run() {
    // Rank 0 makes the folder and holds its lock; then the others must see it.
    together(ranks_, [&] {
      if (speaks()) prepare_folder();
    });
    std::optional<Trainer> trainer;
    together(ranks_, [&] { make_trainer(trainer); });
    require_same(ranks_, facts());
    if (speaks()) announce(*trainer);
    train(*trainer);
  }

 private:
  // Whether this rank writes what the run writes once.
  bool speaks() const { return ranks_.rank() == 0; }

  void prepare_folder() {
    if (o_.output.empty()) throw UsageError("give the run a folder: --output DIR");
    std::error_code failure;
    fs::create_directories(o_.output, failure);
    require(!failure, "{}: cannot create: {}", o_.output, failure.message());
    lock_.emplace(o_.output);
    require(o_.resume || !newest_checkpoint(o_.output).has_value(),
            "{}: already holds a run; pass --resume to go on with it, or another --output",
            o_.output);
  }

  void make_trainer(std::optional<Trainer>& trainer) {
    require(fs::exists(o_.output + "/lock"),
            "{}: not seen here; --output must be a folder that all ranks share", o_.output);
    const std::optional<RunCheckpoint> from =
        o_.resume ? newest_checkpoint(o_.output) : std::nullopt;
    require(!o_.resume || from.has_value(), "{}: no complete checkpoint to resume from", o_.output);
    std::optional<RunState> resumed;
    if (from) resumed = load_checkpoint_of_run(*from);
    make_task(from ? from->folder : o_.init_from);
    Parameters parameters = make_model(resumed);
    settle_trainer_options();
    if (resumed) check_same_run(resumed->trainer_json);
    trainer.emplace(ranks_, o_.config, parameters, *task_, o_.trainer);
    if (resumed) trainer->restore(from->step, resumed->optimizer);
  }

  void make_task(const std::string& tokenizer_folder) {
    if (o_.task == "mqar") {
      o_.mqar.seed = o_.seed;
      apply_mqar_defaults(o_);
      task_ = std::make_unique<MqarTask>(o_.mqar);
      return;
    }
    if (o_.data.inputs.empty()) {
      throw UsageError("no text to learn from: name files or folders, or --task mqar");
    }
    tokenizer_ = tokenizer_for_training(o_.data, tokenizer_folder);
    apply_text_defaults(o_, *tokenizer_);
    o_.data.task.seed = o_.seed;
    task_ = text_task(o_.data, *tokenizer_);
  }

  Parameters make_model(const std::optional<RunState>& resumed) {
    if (resumed) {
      o_.config = resumed->config;
      return Parameters(resumed->parameters);
    }
    if (!o_.init_from.empty()) {
      const Checkpoint checkpoint = load_checkpoint(o_.init_from);
      check_finite(checkpoint.tensors, o_.init_from);
      o_.config = checkpoint.config;
      require(tokenizer_ == nullptr || tokenizer_->size() <= o_.config.vocab_size,
              "{}: the tokenizer has {} ids, the model {}", o_.init_from,
              tokenizer_ == nullptr ? 0 : tokenizer_->size(), o_.config.vocab_size);
      return Parameters(checkpoint.tensors).cast(DType::f32);
    }
    check_config(o_.config, "train");
    o_.config.attention_scale = 1 / std::sqrt(static_cast<double>(o_.config.key_width()));
    return Parameters::initialized(o_.config, initialization_named(o_.initialization), o_.seed);
  }

  void settle_trainer_options() {
    TrainerOptions& t = o_.trainer;
    t.steps = o_.steps;
    t.schedule = {schedule_named(o_.schedule), o_.learning_rate, o_.low_rate, o_.warmup, o_.steps};
    t.model.dropout_seed = o_.seed;
    t.dtype = o_.dtype.empty() ? (t.device.is_cuda() ? DType::bf16 : DType::f32)
                               : (o_.dtype == "bf16" ? DType::bf16 : DType::f32);
  }

  // What a resumed run must share with the one that saved; also a record of how a model was made.
  std::string trainer_json() const {
    const TrainerOptions& t = o_.trainer;
    nlohmann::ordered_json j;
    j["task"] = o_.task;
    j["seed"] = o_.seed;
    j["steps"] = t.steps;
    j["accumulation"] = t.accumulation;
    j["ranks"] = ranks_.size();
    j["context_ranks"] = t.context_ranks;
    j["micro_batches"] = t.accumulation * (ranks_.size() / t.context_ranks);
    if (o_.task == "mqar") {
      j["length"] = o_.mqar.length;
      j["pairs"] = o_.mqar.pairs;
      j["sequences"] = o_.mqar.batch;
    } else {
      j["sequence_length"] = o_.data.task.length;
      j["sequences"] = o_.data.task.sequences;
      j["inputs"] = o_.data.inputs;
    }
    j["schedule"] = o_.schedule;
    j["learning_rate"] = t.schedule.base;
    j["low_rate"] = t.schedule.low;
    j["warmup"] = t.schedule.warmup;
    j["betas"] = {t.adamw.beta1, t.adamw.beta2};
    j["weight_decay"] = t.adamw.weight_decay;
    j["clip"] = t.adamw.clip;
    j["initialization"] = o_.initialization;
    j["threads"] = thread_count();
    j["device"] = o_.device;
    j["dtype"] = name_of(t.dtype);
    return j.dump(2) + "\n";
  }

  // The micro batches of a step may be divided among another number of ranks.
  void check_same_run(const std::string& saved) const {
    auto before = parse_json(saved, "trainer.json");
    const auto now = parse_json(trainer_json(), "the options given");
    if (!before.contains("micro_batches")) {  // saved when there was one rank only
      before["micro_batches"] = before.value("accumulation", 1);
    }
    constexpr const char* free[] = {"threads",      "inputs", "device",       "dtype",
                                    "accumulation", "ranks",  "context_ranks"};
    for (const auto& [key, value] : now.items()) {
      if (std::find(std::begin(free), std::end(free), key) != std::end(free)) continue;
      const auto old = before.value(key, nlohmann::json());
      require(old == value, "{}: the run was started with {} {}, now {}; resume with {}", o_.output,
              key, old.dump(), value.dump(),
              key == "micro_batches"
                  ? "an --accumulation that gives that many in a step over all ranks"
                  : "the same options");
    }
  }

  // What must be the same on all ranks.
  Facts facts() const {
    auto options = parse_json(trainer_json(), "the options given");
    options.erase("threads");
    std::string tensors;
    for (const auto& spec : expected_tensors(o_.config)) {
      tensors += spec.name + spec.shape.text() + " ";
    }
    const LabelledBatch first = task_->training_batch(0);
    return {{"configuration", options.dump() + config_json(o_.config, "float32")},
            {"list of tensors", tensors},
            {"first training batch",
             fmt::format("{} {}", fmt::join(first.ids, " "), fmt::join(first.offsets, " "))}};
  }

  void announce(const Trainer& trainer) const {
    const Config& c = o_.config;
    fmt::print(stderr,
               "{} parameters: width {}, {} layers, {} heads of {}x{}, vocabulary {}; {} on {}{}\n",
               short_number(static_cast<double>(trainer.optimizer().parameters().count())), c.width,
               c.layers, c.heads, c.key_width(), c.value_width(), c.vocab_size,
               name_of(o_.trainer.dtype),
               o_.trainer.device.is_cpu() ? fmt::format("{} threads", thread_count())
                                          : o_.trainer.device.text(),
               ranks_.alone() ? "" : fmt::format(" of each of {} ranks", ranks_.size()));
    if (trainer.step() > 0) fmt::print(stderr, "resuming after step {}\n", trainer.step());
  }

  void train(Trainer& trainer) {
    catch_interrupts();
    ProgressBar bar("training", static_cast<double>(o_.steps), "tok");
    std::int64_t tokens = 0;
    std::int64_t saved = -1;
    if (speaks()) metrics_.emplace(o_.output, trainer.step());
    TrainerEvents events;
    events.stepped = [&](const StepReport& r) {
      if (!speaks()) return;
      tokens += r.tokens;
      metrics_->record(r.step,
                       {{"train/lm_loss", r.loss},
                        {"train/learning_rate", r.learning_rate},
                        {"train/gradient_norm", r.gradient_norm},
                        {"runtime/tokens_per_sec", static_cast<double>(r.tokens) / r.seconds}});
      bar.update(static_cast<double>(r.step), fmt::format("step {} loss {:.3f}", r.step, r.loss),
                 static_cast<double>(tokens));
      if (o_.sample_every > 0 && r.step % o_.sample_every == 0) sample(trainer.model(), bar);
    };
    events.validated = [&](const ValidationReport& r) {
      if (speaks()) validated(r, bar);
    };
    events.save = [&](std::int64_t step) {
      save(trainer, step);
      saved = step;
    };
    events.interrupted = interrupted;
    const bool stopped = trainer.run(events);
    if (!speaks()) return;
    bar.finish();
    write_curve();
    fmt::print(stderr, "{}: saved after step {}{}\n", o_.output, saved,
               trainer.step() < o_.steps && stopped ? "; go on with --resume" : "");
  }

  void validated(const ValidationReport& r, ProgressBar& bar) {
    MetricValues values = {{"validation/lm_loss", r.loss},
                           {"validation/lm_loss_ppl", r.perplexity},
                           {"validation/accuracy", r.accuracy}};
    std::string line = fmt::format("step {:>6}  validation loss {:.4f}", r.step, r.loss);
    if (o_.task == "mqar") {
      line += fmt::format("  accuracy {:5.1f}%", 100 * r.accuracy);
    } else {
      line += fmt::format("  perplexity {:.2f}  next token right {:.1f}%", r.perplexity,
                          100 * r.accuracy);
    }
    if (r.bits_per_byte > 0) {
      values.emplace_back("validation/bits_per_byte", r.bits_per_byte);
      line += fmt::format("  {:.3f} bits/byte", r.bits_per_byte);
    }
    metrics_->record(r.step, values);
    bar.say(line);
  }

  void sample(const LanguageModel& model, ProgressBar& bar) const {
    if (tokenizer_ == nullptr) return;
    Arena arena(model.device());
    State state(model.config(), 1, DType::f32, model.device());
    auto prompt = tokenizer_->encode(o_.sample_prompt);
    if (prompt.empty()) prompt = {model.config().eos_token_ids.front()};
    const std::vector<std::int64_t> whole = {0, static_cast<std::int64_t>(prompt.size())};
    model.advance(arena, {prompt, whole}, state);
    GenerationOptions generation;
    generation.max_tokens = 60;
    generation.sampling.temperature = 0.8;
    generation.sampling.top_p = 0.95;
    generation.end_ids = model.config().eos_token_ids;
    Generator generator(model, arena, state, {prompt}, generation);
    TextStream stream(*tokenizer_, {});
    std::string text = o_.sample_prompt;
    while (!generator.done()) {
      for (const auto& token : generator.next()) text += stream.push(token.id);
    }
    text += stream.flush();
    std::replace(text.begin(), text.end(), '\n', ' ');
    bar.say("  | " + text);
  }

  void save(const Trainer& trainer, std::int64_t step) const {
    const ZeroOptimizer& optimizer = trainer.optimizer();
    const RunState state = {o_.config, optimizer.weights(), optimizer.state(), trainer_json()};
    const auto tokenizer = [&](const std::string& folder) {
      if (tokenizer_ != nullptr) tokenizer_->save(folder);
    };
    save_checkpoint_of_run(ranks_, o_.output, step, state, tokenizer, o_.keep);
  }

  void write_curve() const {
    const std::string metrics = o_.output + "/metrics.jsonl";
    Plot plot;
    plot.title = "Loss of " + fs::path(o_.output).filename().string();
    plot.x_label = "step";
    plot.y_label = "loss (nats a token)";
    plot.curves.push_back({"training", read_metric(metrics, "train/lm_loss")});
    plot.curves.push_back({"validation", read_metric(metrics, "validation/lm_loss")});
    write_svg(plot, o_.output + "/loss.svg");
  }

  Options& o_;
  Communicator& ranks_;
  std::optional<RunLock> lock_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<TrainingTask> task_;
  std::optional<Metrics> metrics_;
};

void add_data_options(CLI::App& command, Options& o) {
  command.add_option("inputs", o.data.inputs, "Text files, folders, .jsonl files");
  command.add_option("--task", o.task, "text: predict it; mqar: multi-query associative recall")
      ->capture_default_str()
      ->check(CLI::IsMember({"text", "mqar"}));
  command.add_option("--validation", o.data.validation_inputs,
                     "Text to validate on; default: the end of the training text");
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
                  "bytes; sentencepiece (learned from the text); or a .model file or folder")
      ->capture_default_str();
  command.add_option("--vocab-size", o.data.tokenizer.vocabulary, "Pieces of a learned vocabulary")
      ->capture_default_str()
      ->check(CLI::Range(300, 1000000));
  command.add_option("--mqar-length", o.mqar.length, "mqar: tokens of an example")
      ->capture_default_str();
  command.add_option("--mqar-pairs", o.mqar.pairs, "mqar: key-value pairs")->capture_default_str();
  command.add_flag("--mqar-random-filler", o.mqar.random_filler,
                   "mqar: random tokens between the queries");
}

void add_model_options(CLI::App& command, Options& o) {
  command.add_option("--preset", o.preset, "Size: nano, tiny, small, medium, 360m")
      ->capture_default_str()
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
  command.add_option("--init-from", o.init_from, "Start from the weights of this model folder");
}

void add_optimizer_options(CLI::App& command, Options& o) {
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
  command.add_option("--schedule", o.schedule, "cosine, linear, constant, wsd")
      ->capture_default_str()
      ->check(CLI::IsMember({"cosine", "linear", "constant", "wsd"}));
  command.add_option("--weight-decay", o.trainer.adamw.weight_decay, "Of matrices")
      ->capture_default_str()
      ->check(not_negative());
  command.add_option("--beta2", o.trainer.adamw.beta2, "AdamW's second beta")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 0.9999999));
  command.add_option("--clip", o.trainer.adamw.clip, "Largest gradient norm; 0: no clipping")
      ->capture_default_str()
      ->check(not_negative());
  command.add_flag("--recompute", o.trainer.model.recompute_blocks,
                   "Less memory: run each block again in the backward pass");
  command.add_option("--seed", o.seed, "Of weights, order of data, dropout")->capture_default_str();
  add_device(&command, o.device);
  command
      .add_option("--dtype", o.dtype,
                  "What is computed in; bf16 keeps weights and their updates in f32. Default: bf16 "
                  "on a GPU, f32 on the CPU")
      ->check(CLI::IsMember({"f32", "bf16"}));
}

void add_run_options(CLI::App& command, Options& o) {
  command.add_option("-o,--output", o.output, "The run's folder");
  command.add_flag("--resume", o.resume, "Go on from the newest complete checkpoint in --output");
  command.add_option("--validate-every", o.trainer.validate_every, "Steps; 0: only at the end")
      ->capture_default_str()
      ->check(not_negative());
  command.add_option("--save-every", o.trainer.save_every, "Steps; 0: only at the end")
      ->capture_default_str()
      ->check(not_negative());
  command.add_option("--keep", o.keep, "Checkpoints to keep; 0: all")
      ->capture_default_str()
      ->check(not_negative());
  command
      .add_option("--sample-every", o.sample_every, "Show a sample every so many steps; 0: never")
      ->capture_default_str()
      ->check(not_negative());
  command.add_option("--sample-prompt", o.sample_prompt, "What samples continue");
  command.add_option("--stop-at-accuracy", o.trainer.stop_at_accuracy,
                     "End once validation accuracy reaches this (mqar: 0.99)");
}

}  // namespace

void add_train(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "train",
      "Train a model on text, from scratch or from a checkpoint, or on associative recall");
  add_data_options(*command, *options);
  add_model_options(*command, *options);
  add_optimizer_options(*command, *options);
  add_run_options(*command, *options);
  command
      ->add_option("--context-ranks", options->trainer.context_ranks,
                   "Ranks that share each sequence (context parallelism)")
      ->capture_default_str()
      ->check(positive());
  add_rank_options(*command, options->ranks);
  command->callback([options] {
    on_all_ranks(options->ranks, options->device,
                 [&](Communicator& ranks, Device device) { Run(*options, ranks, device).run(); });
  });
}

}  // namespace metala::cli
