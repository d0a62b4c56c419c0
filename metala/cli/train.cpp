// metala train: learn from text, or associative recall.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "metala/base/checked_product.h"
#include "metala/base/threads.h"
#include "metala/cli/commands.h"
#include "metala/cli/companions.h"
#include "metala/cli/interrupt.h"
#include "metala/cli/loaded_model.h"
#include "metala/cli/resumed_run.h"
#include "metala/cli/train_config.h"
#include "metala/cli/train_options.h"
#include "metala/cli/train_report.h"
#include "metala/distributed/agreement.h"
#include "metala/model/checkpoint.h"
#include "metala/train/metrics.h"
#include "metala/train/packed_data.h"
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
    settled().require_same_on(ranks_, *task_);
    if (speaks()) announce(*trainer);
    train(*trainer);
  }

 private:
  // Whether this rank writes what the run writes once.
  bool speaks() const { return ranks_.rank() == 0; }

  SettledRun settled() const { return {o_, ranks_.size(), training_tokens_}; }

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
    if (!from && !o_.init_from.empty()) o_.init_from = resolve_model_folder(o_.init_from);
    const std::string& begins_from = from ? from->folder : o_.init_from;
    // Now, as the folder may be gone when a checkpoint is due.
    if (!begins_from.empty()) companions_ = read_companions(begins_from);
    make_task(begins_from);
    Parameters parameters = make_model(resumed);
    settle_trainer_options();
    if (resumed) settled().check_same(resumed->trainer_json);
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
      c.train_batch_size = checked_product(
          "--sequences times --accumulation times ranks", c.train_micro_batch_size_per_gpu,
          checked_product("--accumulation times ranks", c.gradient_accumulation_steps, groups()));
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
    if (tokenizer_ != nullptr) take_special_ids(o_.config, *tokenizer_);
  }

  Parameters make_model(const std::optional<RunState>& resumed) {
    if (resumed) {
      check_same_model(o_, resumed->config, o_.output);
      o_.config = resumed->config;
      return Parameters(resumed->parameters);
    }
    if (!o_.init_from.empty()) {
      const Checkpoint checkpoint = load_checkpoint(o_.init_from);
      check_finite(checkpoint.tensors, o_.init_from);
      check_same_model(o_, checkpoint.config, o_.init_from);
      o_.config = checkpoint.config;
      require(tokenizer_ == nullptr || tokenizer_->size() <= o_.config.vocab_size,
              "{}: the tokenizer has {} ids, the model {}", o_.init_from,
              tokenizer_ == nullptr ? 0 : tokenizer_->size(), o_.config.vocab_size);
      const auto own = tokenizer_ ? find_tokenizer(o_.init_from) : nullptr;
      if (own) require_same_ids(*own, o_.init_from, *tokenizer_, "the tokenizer of the data");
      return Parameters(checkpoint.tensors).cast(DType::f32);
    }
    check_config(o_.config, "train");
    if (o_.configured) {
      return Parameters::initialized(o_.config, initialization(*o_.run), o_.seed);
    }
    o_.config.attention_scale = 1 / std::sqrt(static_cast<double>(o_.config.key_width()));
    return Parameters::initialized(o_.config, initialization_named(o_.initialization), o_.seed);
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
    if (trainer.step() > 0) remember_steps(trainer, o_);
    if (o_.configured && speaks()) fmt::print(stderr, "{}", as_yaml(*o_.run));
    if (speaks()) report_.emplace(o_, ranks_.size(), trainer.step(), tokenizer_.get());
    std::int64_t saved = trainer.step() > 0 ? trainer.step() : -1;
    bool exit = false;  // exit_interval is reached
    TrainerEvents events;
    events.stepped = [&](const StepReport& r) {
      if (o_.run && o_.run->exit_interval > 0 && r.step % o_.run->exit_interval == 0) exit = true;
      if (saving_ && saving_->advance()) saving_.reset();
      if (report_) report_->stepped(r, trainer.model());
    };
    events.validated = [&](const ValidationReport& r) {
      if (report_) report_->validated(r);
    };
    events.save = [&](std::int64_t step) {
      const auto start = std::chrono::steady_clock::now();
      save(trainer, step);
      const std::chrono::duration<double> stall = std::chrono::steady_clock::now() - start;
      if (report_) report_->saved(step, stall.count());
      saved = step;
    };
    events.interrupted = [&] { return exit || interrupted(); };
    const bool stopped = run_to_the_end(trainer, events);
    if (test_task_ != nullptr && trainer.step() == o_.steps && !tested_before(trainer.step())) {
      const ValidationReport test = trainer.validate(*test_task_);
      if (report_) report_->tested(test);
    }
    finish_save();
    if (!report_) return;
    report_->finish();
    fmt::print(stderr, "{}: saved after step {}{}\n", o_.output, saved,
               trainer.step() < o_.steps && stopped ? "; go on with --resume" : "");
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

  // The run goes on while a copy of its state is written; `stepped` completes the checkpoint once
  // all ranks have written their parts.
  void save(const Trainer& trainer, std::int64_t step) {
    finish_save();
    const ZeroOptimizer& optimizer = trainer.optimizer();
    const auto state = [this, &optimizer, snapshot = optimizer.snapshot(speaks()),
                        json = settled().record(&trainer)] {
      return RunState{o_.config, optimizer.weights(snapshot), optimizer.state(snapshot), json,
                      o_.configured ? as_yaml(*o_.run) : std::string()};
    };
    const auto tokenizer = [this](const std::string& folder) {
      if (tokenizer_ != nullptr) tokenizer_->save(folder);
      write_companions(companions_, folder);
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

  TrainCommand& o_;
  Communicator& ranks_;
  std::optional<RunLock> lock_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<TrainingTask> task_, test_task_;
  std::int64_t training_tokens_ = 0;
  Companions companions_;                   // of the folder that the run begins from
  std::optional<TrainReport> report_;       // of rank 0
  std::unique_ptr<CheckpointSave> saving_;  // last: it uses what stands above
};

// Flags that have no effect beside others; `prepared`: the inputs are prepared data. A
// configuration knows its own (train_config.h).
void refuse_idle_flags(const CLI::App& train, const TrainCommand& o, bool prepared) {
  const auto given = [&](const char* flag) { return train.get_option(flag)->count() > 0; };
  const auto refuse = [&](std::initializer_list<const char*> flags, const char* why) {
    for (const char* flag : flags) {
      if (given(flag)) throw UsageError(fmt::format("{} {}", flag, why));
    }
  };
  if (o.task == "mqar") {
    refuse({"inputs", "--validation", "--validation-share", "--text-field", "--replace-invalid",
            "--tokenizer", "--vocab-size", "--sequence-length", "--reset-at-documents",
            "--validation-batches", "--preset", "--glu-width", "--sample-every", "--sample-prompt"},
           "is not for --task mqar, which makes its own examples and model");
    return;
  }
  refuse({"--mqar-length", "--mqar-pairs", "--mqar-random-filler"}, "is for --task mqar");
  if (prepared) {
    refuse({"--text-field", "--replace-invalid", "--vocab-size"}, "is for text, not prepared data");
  } else {
    refuse({"--reset-at-documents", "--validation-batches"}, "is for prepared data");
  }
  if (o.data.tokenizer.name != "sentencepiece") {
    refuse({"--vocab-size"}, "is for --tokenizer sentencepiece, which learns one");
  }
  if (given("--validation")) {
    refuse({"--validation-share"}, "is not for --validation, which names the text itself");
  }
  if (o.init_from.empty()) return;
  refuse(
      {"--preset", "--width", "--layers", "--heads", "--glu-width", "--untied", "--initialization"},
      "is not for --init-from, which takes the model's own");
  if (!prepared) {
    refuse({"--tokenizer", "--vocab-size"}, "is not for --init-from, which takes the model's own");
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
      refuse_idle_flags(*command, o, true);
      o.run = run_of_flags(o, named ? o.data.tokenizer.name : "");
      o.task = "packed";
    } else {
      refuse_idle_flags(*command, o, false);
    }
    on_all_ranks(o.ranks, o.device, [&](Communicator& ranks, Device device) {
      if (parsed && !parsed->inert.empty() && ranks.rank() == 0) {
        fmt::print(stderr, "without effect here: {}\n", fmt::join(parsed->inert, ", "));
      }
      Run(o, ranks, device).run();
    });
  });
}

}  // namespace metala::cli
