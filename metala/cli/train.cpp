// metala train: learn from text, or associative recall.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "metala/base/half.h"
#include "metala/base/threads.h"
#include "metala/cli/commands.h"
#include "metala/cli/interrupt.h"
#include "metala/cli/train_config.h"
#include "metala/cli/train_options.h"
#include "metala/device/open_device.h"
#include "metala/distributed/agreement.h"
#include "metala/generate/generator.h"
#include "metala/generate/text_stream.h"
#include "metala/io/json.h"
#include "metala/model/checkpoint.h"
#include "metala/train/flops.h"
#include "metala/train/metrics.h"
#include "metala/train/packed_data.h"
#include "metala/train/plot.h"
#include "metala/train/progress.h"
#include "metala/train/run_folder.h"
#include "metala/train/trainer.h"

namespace metala::cli {
namespace {

namespace fs = std::filesystem;

class Run {
 public:
  Run(TrainCommand& options, Communicator& ranks, Device device) : o_(options), ranks_(ranks) {
    o_.trainer.device = device;
  }

  void run() {
    if (o_.configured) together(ranks_, [&] { settle_configuration(); });
    // Rank 0 makes the folder and holds its lock; then the others must see it.
    together(ranks_, [&] {
      if (speaks()) prepare_folder();
    });
    // Rank 0 may keep the order of samples beside the data; the others read what it has kept.
    for (const bool first : {true, false}) {
      together(ranks_, [&] {
        if (o_.run && first == speaks()) make_packed_task();
      });
    }
    std::optional<Trainer> trainer;
    together(ranks_, [&] { make_trainer(trainer); });
    require_same(ranks_, facts());
    if (speaks()) announce(*trainer);
    train(*trainer);
  }

 private:
  // Whether this rank writes what the run writes once.
  bool speaks() const { return ranks_.rank() == 0; }

  // Groups of ranks with micro batches of their own; the trainer checks that they come out even.
  std::int64_t groups() const {
    return std::max<std::int64_t>(1, ranks_.size() / o_.trainer.context_ranks);
  }

  void settle_configuration() {
    settle(*o_.run, groups());
    const bool same_folder = o_.run->load == o_.run->save;
    o_.resume = o_.resume || (same_folder && newest_checkpoint(o_.output).has_value());
    if (o_.resume) o_.init_from.clear();
  }

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
    if (from && speaks()) verify_checkpoint_of_run(*from);
    if (from) resumed = load_checkpoint_of_run(*from);
    make_task(from ? from->folder : o_.init_from);
    Parameters parameters = make_model(resumed);
    settle_trainer_options();
    if (resumed) check_same_run(resumed->trainer_json);
    trainer.emplace(ranks_, o_.config, parameters, *task_, o_.trainer);
    if (!resumed) return;
    trainer->restore(from->step, resumed->optimizer);
    restore_scaler(*trainer, resumed->trainer_json);
  }

  void make_task(const std::string& tokenizer_folder) {
    if (o_.task == "mqar") {
      o_.mqar.seed = o_.seed;
      apply_mqar_defaults(o_);
      task_ = std::make_unique<MqarTask>(o_.mqar);
      return;
    }
    if (o_.run) return;  // make_packed_task's
    if (o_.data.inputs.empty()) {
      throw UsageError("no text to learn from: name files or folders, or --task mqar");
    }
    tokenizer_ = tokenizer_for_training(o_.data, tokenizer_folder);
    apply_text_defaults(o_, *tokenizer_);
    o_.data.task.seed = o_.seed;
    task_ = text_task(o_.data, *tokenizer_);
  }

  void make_packed_task() {
    RunConfig& c = *o_.run;
    if (!o_.configured) {
      c.train_batch_size =
          c.train_micro_batch_size_per_gpu * c.gradient_accumulation_steps * groups();
    }
    IndexMapOptions keeping;
    keeping.write = speaks();
    if (speaks())
      keeping.notice = [](const std::string& text) { fmt::print(stderr, "{}\n", text); };
    PackedData data = open_packed_data(c, keeping);
    task_ = data.training_task(c, groups());
    if (data.test.size() > 0) test_task_ = data.test_task(c, groups());
    training_tokens_ = data.training.tokens();
    if (speaks()) {
      fmt::print(stderr,
                 "training on {} tokens{}, {} times; validating on {} samples, testing on {}\n",
                 training_tokens_, data.training.labelled() ? " by their labels" : "",
                 data.training.epochs(), data.validation.size(), data.test.size());
    }
    tokenizer_ = std::move(data.tokenizer);
    if (!o_.configured) {
      require(tokenizer_ != nullptr, "name the tokenizer of the data with --tokenizer");
      apply_text_defaults(o_, *tokenizer_);
      return;
    }
    o_.steps = c.train_iters;
    o_.config = model_config(c, data.vocabulary);
    if (tokenizer_ != nullptr) {
      o_.config.bos_token_id = tokenizer_->bos() >= 0 ? tokenizer_->bos() : data.end_id;
      o_.config.pad_token_id = std::max(tokenizer_->pad(), 0);
      o_.config.eos_token_ids = {std::max(tokenizer_->eos(), 0)};
    }
  }

  Parameters make_model(const std::optional<RunState>& resumed) {
    if (resumed) {
      check_same_model(resumed->config, o_.output);
      o_.config = resumed->config;
      return Parameters(resumed->parameters);
    }
    if (!o_.init_from.empty()) {
      const Checkpoint checkpoint = load_checkpoint(o_.init_from);
      check_finite(checkpoint.tensors, o_.init_from);
      check_same_model(checkpoint.config, o_.init_from);
      o_.config = checkpoint.config;
      require(tokenizer_ == nullptr || tokenizer_->size() <= o_.config.vocab_size,
              "{}: the tokenizer has {} ids, the model {}", o_.init_from,
              tokenizer_ == nullptr ? 0 : tokenizer_->size(), o_.config.vocab_size);
      return Parameters(checkpoint.tensors).cast(DType::f32);
    }
    check_config(o_.config, "train");
    if (o_.configured) {
      return Parameters::initialized(o_.config, initialization(*o_.run), o_.seed);
    }
    o_.config.attention_scale = 1 / std::sqrt(static_cast<double>(o_.config.key_width()));
    return Parameters::initialized(o_.config, initialization_named(o_.initialization), o_.seed);
  }

  // Whether the model that is there is the one that a configuration describes, or flags.
  void check_same_model(const Config& there, const std::string& where) const {
    const auto check = [&](const char* key, const auto& asked, const auto& found) {
      require(asked == found,
              "{}: its model has {} {}, not {}; leave that as it is, or start another "
              "run in another folder",
              where, key, found, asked);
    };
    if (o_.configured) {
      check("num_layers", o_.config.layers, there.layers);
      check("hidden_size", o_.config.width, there.width);
      check("num_attention_heads", o_.config.heads, there.heads);
      check("intermediate_size", o_.config.glu_width, there.glu_width);
      check("no_weight_tying", !o_.config.tie_word_embeddings, !there.tie_word_embeddings);
      const auto norm = [](const Config& c) {
        return c.norm == NormType::layernorm ? "layernorm" : "rmsnorm";
      };
      check("norm", std::string_view(norm(o_.config)), std::string_view(norm(there)));
      if (o_.resume) check("vocab_size, padded,", o_.config.vocab_size, there.vocab_size);
      return;
    }
    if (o_.layers > 0) check("--layers", o_.layers, there.layers);
    if (o_.width > 0) check("--width", o_.width, there.width);
    if (o_.heads > 0) check("--heads", o_.heads, there.heads);
    if (o_.glu_width > 0 && o_.task != "mqar") check("--glu-width", o_.glu_width, there.glu_width);
  }

  void settle_trainer_options() {
    TrainerOptions& t = o_.trainer;
    if (o_.configured) {
      set_trainer_options(*o_.run, t);
    } else {
      t.steps = o_.steps;
      t.schedule.kind = schedule_named(o_.schedule);
      t.schedule.base = o_.learning_rate;
      t.schedule.low = o_.low_rate;
      t.schedule.warmup = o_.warmup;
      t.schedule.steps = o_.steps;
      t.model.dropout_seed = o_.seed;
    }
    t.dtype = o_.dtype.empty()     ? (t.device.is_cuda() ? DType::bf16 : DType::f32)
              : o_.dtype == "bf16" ? DType::bf16
              : o_.dtype == "f16"  ? DType::f16
                                   : DType::f32;
    if (t.dtype == DType::f16) t.scaling.on = true;
  }

  static nlohmann::json scaler_json(const LossScaler::State& s) {
    return {{"scale", s.scale},
            {"credits", s.credits},
            {"good_steps", s.good_steps},
            {"left_out", s.left_out},
            {"left_out_in_a_row", s.left_out_in_a_row}};
  }

  static void restore_scaler(Trainer& trainer, const std::string& saved) {
    const auto options = parse_json(saved, "trainer.json");
    if (!trainer.scaler().on() || !options.contains("loss_scaler")) return;
    const auto& s = options["loss_scaler"];
    trainer.restore_scaler({s.value("scale", 1.0), s.value("credits", std::int64_t{0}),
                            s.value("good_steps", std::int64_t{0}),
                            s.value("left_out", std::int64_t{0}),
                            s.value("left_out_in_a_row", std::int64_t{0})});
  }

  // What a resumed run must share with the one that saved; also a record of how a model was made.
  // With a trainer, also what its loss scaler has come to.
  std::string trainer_json(const Trainer* trainer = nullptr) const {
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
    } else if (o_.run) {
      j["sequence_length"] = o_.run->seq_length;
      j["sequences"] = o_.run->train_micro_batch_size_per_gpu;
      j["inputs"] = o_.run->data_path.empty() ? nlohmann::json(o_.run->train_data_paths)
                                              : nlohmann::json(o_.run->data_path);
      j["split"] = o_.run->split;
      j["weights"] = o_.run->train_data_weights;
      j["training_tokens"] = training_tokens_;
      j["reset_state_at_documents"] = o_.run->reset_state_at_documents;
      j["eod_mask_loss"] = o_.run->eod_mask_loss;
      j["loss"] = o_.run->loss;
      if (o_.run->pack_impl != "packed") {
        j["pack_impl"] = o_.run->pack_impl;
        j["allow_chopped"] = o_.run->allow_chopped;
      }
      if (!o_.run->train_label_data_paths.empty()) j["labels"] = o_.run->train_label_data_paths;
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
    if (trainer != nullptr && trainer->scaler().on()) {
      j["loss_scaler"] = scaler_json(trainer->scaler().state());
    }
    return j.dump(2) + "\n";
  }

  // The micro batches of a step may be divided among another number of ranks.
  void check_same_run(const std::string& saved) const {
    auto before = parse_json(saved, "trainer.json");
    const auto now = parse_json(trainer_json(), "the options given");
    if (!before.contains("micro_batches")) {  // saved when there was one rank only
      before["micro_batches"] = before.value("accumulation", 1);
    }
    if (now.contains("loss") && !before.contains("loss")) before["loss"] = "labels";
    constexpr const char* free[] = {"threads",      "inputs", "device",        "dtype",
                                    "accumulation", "ranks",  "context_ranks", "loss_scaler"};
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
             fmt::format("{} {} {}", fmt::join(first.ids, " "), fmt::join(first.labels, " "),
                         fmt::join(first.offsets, " "))}};
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
    std::int64_t saved = trainer.step() > 0 ? trainer.step() : -1;
    if (speaks()) metrics_.emplace(o_.output, trainer.step());
    TrainerEvents events;
    events.stepped = [&](const StepReport& r) {
      if (o_.run && o_.run->exit_interval > 0 && r.step % o_.run->exit_interval == 0) exit_ = true;
      if (saving_ && saving_->advance()) saving_.reset();
      if (!speaks()) return;
      tokens += r.tokens;
      record(r);
      bar.update(static_cast<double>(r.step), fmt::format("step {} loss {:.3f}", r.step, r.loss),
                 static_cast<double>(tokens));
      if (o_.log_every > 0 && r.step % o_.log_every == 0) log(r, bar);
      if (r.skipped) {
        bar.say(fmt::format(
            "step {:>6}  left out: loss {:.4f} (z {:.1f}), gradient norm {:.3f} (z {:.1f})", r.step,
            r.loss, r.loss_z, r.gradient_norm, r.norm_z));
      }
      if (r.overflowed) {
        bar.say(fmt::format("step {:>6}  left out: its gradients overflow at a loss scale of {}",
                            r.step, r.loss_scale));
      }
      if (o_.sample_every > 0 && r.step % o_.sample_every == 0) sample(trainer.model(), bar);
    };
    events.validated = [&](const ValidationReport& r) {
      if (speaks()) validated(r, bar);
    };
    events.save = [&](std::int64_t step) {
      const auto start = std::chrono::steady_clock::now();
      save(trainer, step);
      const std::chrono::duration<double> stall = std::chrono::steady_clock::now() - start;
      if (speaks()) metrics_->record(step, {{"runtime/save_stall_seconds", stall.count()}});
      saved = step;
    };
    events.interrupted = [&] { return exit_ || interrupted(); };
    flops_per_token_ = training_flops_per_token(o_.config);
    const bool half = is_half(o_.trainer.dtype);
    peak_flops_ = 1e12 * (o_.peak_tflops > 0 ? o_.peak_tflops
                          : half             ? peak_tflops(name_of(o_.trainer.device))
                                             : 0);
    if (trainer.step() > 0) remember_steps(trainer);
    if (o_.configured && speaks()) fmt::print(stderr, "{}", as_yaml(*o_.run));
    const bool stopped = run_to_the_end(trainer, events);
    if (test_task_ != nullptr && trainer.step() == o_.steps && !tested_before(trainer.step())) {
      const ValidationReport test = trainer.validate(*test_task_);
      if (speaks()) tested(test, bar);
    }
    finish_save();
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

  // The spike guard of a resumed run knows the steps before it.
  void remember_steps(Trainer& trainer) const {
    if (o_.trainer.skip_spikes_above <= 0) return;
    const std::string metrics = o_.output + "/metrics.jsonl";
    const auto losses = read_metric(metrics, "train/lm_loss");
    const auto norms = read_metric(metrics, "train/gradient_norm");
    for (std::size_t i = 0; i < std::min(losses.size(), norms.size()); ++i) {
      if (losses[i].first <= static_cast<double>(trainer.step())) {
        trainer.remember(losses[i].second, norms[i].second);
      }
    }
  }

  // A run that is resumed at its end has done so.
  bool tested_before(std::int64_t step) const {
    bool known = false;
    if (speaks()) {
      const auto losses = read_metric(o_.output + "/metrics.jsonl", "test/lm_loss");
      known = !losses.empty() && losses.back().first == static_cast<double>(step);
    }
    return ranks_.any(known, "whether the test was done");
  }

  void tested(const ValidationReport& r, ProgressBar& bar) {
    metrics_->record(r.step, {{"test/lm_loss", r.loss}, {"test/lm_loss_ppl", r.perplexity}});
    bar.say(fmt::format("step {:>6}  test loss {:.4f}  perplexity {:.2f}", r.step, r.loss,
                        r.perplexity));
  }

  double flops_per_second(const StepReport& r) const {
    return flops_per_token_ * static_cast<double>(r.tokens) / r.seconds /
           static_cast<double>(ranks_.size());
  }

  void record(const StepReport& r) {
    MetricValues values = {{"train/lm_loss", r.loss},
                           {"train/learning_rate", r.learning_rate},
                           {"train/gradient_norm", r.gradient_norm},
                           {"runtime/tokens_per_sec", static_cast<double>(r.tokens) / r.seconds},
                           {"runtime/iteration_time", r.seconds},
                           {"runtime/flops_per_sec_per_gpu", flops_per_second(r)}};
    if (peak_flops_ > 0) {
      values.emplace_back("runtime/model_flops_utilization", flops_per_second(r) / peak_flops_);
    }
    if (r.skipped || r.overflowed) values.emplace_back("train/skipped", 1);
    if (o_.trainer.scaling.on) values.emplace_back("train/loss_scale", r.loss_scale);
    metrics_->record(r.step, values);
  }

  void log(const StepReport& r, ProgressBar& bar) const {
    std::string line = fmt::format(
        "iteration {}/{} | elapsed time per iteration (ms): {:.1f} | learning rate: {:.3E} | "
        "lm_loss: {:.6E} | gradient norm: {:.4f} | tokens/sec: {:.0f} | TFLOP/s: {:.3g}",
        r.step, o_.steps, 1000 * r.seconds, r.learning_rate, r.loss, r.gradient_norm,
        static_cast<double>(r.tokens) / r.seconds, flops_per_second(r) / 1e12);
    if (o_.trainer.scaling.on) line += fmt::format(" | loss scale: {}", r.loss_scale);
    if (peak_flops_ > 0)
      line += fmt::format(" | MFU: {:.1f}%", 100 * flops_per_second(r) / peak_flops_);
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
    Generator generator(model, state, {prompt}, generation);
    TextStream stream(*tokenizer_, {});
    std::string text = o_.sample_prompt;
    while (!generator.done()) {
      for (const auto& token : generator.next()) text += stream.push(token.id);
    }
    text += stream.flush();
    std::replace(text.begin(), text.end(), '\n', ' ');
    bar.say("  | " + text);
  }

  // The run goes on while a copy of its state is written; `stepped` completes the checkpoint once
  // all ranks have written their parts.
  void save(const Trainer& trainer, std::int64_t step) {
    finish_save();
    const ZeroOptimizer& optimizer = trainer.optimizer();
    const auto state = [this, &optimizer, snapshot = optimizer.snapshot(speaks()),
                        json = trainer_json(&trainer)] {
      return RunState{o_.config, optimizer.weights(snapshot), optimizer.state(snapshot), json,
                      o_.configured ? as_yaml(*o_.run) : std::string()};
    };
    const auto tokenizer = [this](const std::string& folder) {
      if (tokenizer_ != nullptr) tokenizer_->save(folder);
    };
    saving_ = std::make_unique<CheckpointSave>(ranks_, o_.output, step, state, tokenizer, o_.keep);
  }

  void finish_save() {
    if (saving_) saving_->finish();
    saving_.reset();
  }

  // Completes a checkpoint in the making also when the run ends with an error that leaves the ranks
  // able to.
  bool run_to_the_end(Trainer& trainer, const TrainerEvents& events) {
    try {
      return trainer.run(events);
    } catch (const Error& e) {
      if (ranks_.alone() || dynamic_cast<const AgreedError*>(&e) != nullptr) finish_save();
      throw;
    }
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

  TrainCommand& o_;
  Communicator& ranks_;
  std::optional<RunLock> lock_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<TrainingTask> task_, test_task_;
  std::int64_t training_tokens_ = 0;
  bool exit_ = false;  // exit_interval is reached
  std::optional<Metrics> metrics_;
  double flops_per_token_ = 0, peak_flops_ = 0;
  std::unique_ptr<CheckpointSave> saving_;  // last: it uses what stands above
};

}  // namespace

namespace {

// Flags that another one leaves without effect.
void refuse_idle_flags(const CLI::App& train, const TrainCommand& o) {
  const auto refuse = [&](std::initializer_list<const char*> flags, const char* why) {
    for (const char* flag : flags) {
      if (train.get_option(flag)->count() > 0) throw UsageError(fmt::format("{} {}", flag, why));
    }
  };
  if (o.task == "mqar") {
    refuse({"inputs", "--validation", "--tokenizer", "--vocab-size", "--preset", "--glu-width"},
           "is not for --task mqar, which makes its own examples and model");
  } else if (o.task == "text" && !o.init_from.empty()) {
    refuse({"--preset", "--width", "--layers", "--heads", "--glu-width", "--untied",
            "--initialization", "--tokenizer", "--vocab-size"},
           "is not for --init-from, which takes the model's own");
  }
}

}  // namespace

void add_train(CLI::App& app) {
  auto options = std::make_shared<TrainCommand>();
  CLI::App* command = app.add_subcommand(
      "train",
      "Train a model on text, from scratch or from a checkpoint, or on associative recall");
  add_train_options(*command, *options);
  command->callback([options, command] {
    TrainCommand& o = *options;
    const auto parsed = run_configuration(*command, o.data.inputs, o.settings);
    if (parsed) {
      adopt_configuration(o, parsed->config);
    } else if (names_prepared_data(o.data.inputs)) {
      const bool named = command->get_option("--tokenizer")->count() > 0;
      o.run = run_of_flags(o, named ? o.data.tokenizer.name : "");
      o.task = "packed";
    }
    refuse_idle_flags(*command, o);
    on_all_ranks(o.ranks, o.device, [&](Communicator& ranks, Device device) {
      if (parsed && !parsed->inert.empty() && ranks.rank() == 0) {
        fmt::print(stderr, "without effect here: {}\n", fmt::join(parsed->inert, ", "));
      }
      Run(o, ranks, device).run();
    });
  });
}

}  // namespace metala::cli
