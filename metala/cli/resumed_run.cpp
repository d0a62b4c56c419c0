#include "metala/cli/resumed_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>

#include "metala/base/threads.h"
#include "metala/io/json.h"
#include "metala/model/checkpoint.h"
#include "metala/train/metrics.h"

namespace metala::cli {
namespace {

nlohmann::json scaler_json(const LossScaler::State& s) {
  return {{"scale", s.scale},
          {"credits", s.credits},
          {"good_steps", s.good_steps},
          {"left_out", s.left_out},
          {"left_out_in_a_row", s.left_out_in_a_row}};
}

void add_packed(const RunConfig& c, std::int64_t training_tokens, nlohmann::ordered_json& j) {
  j["sequence_length"] = c.seq_length;
  j["sequences"] = c.train_micro_batch_size_per_gpu;
  j["inputs"] =
      c.data_path.empty() ? nlohmann::json(c.train_data_paths) : nlohmann::json(c.data_path);
  j["split"] = c.split;
  j["weights"] = c.train_data_weights;
  j["training_tokens"] = training_tokens;
  j["reset_state_at_documents"] = c.reset_state_at_documents;
  j["eod_mask_loss"] = c.eod_mask_loss;
  j["loss"] = c.loss;
  if (c.pack_impl != "packed") {
    j["pack_impl"] = c.pack_impl;
    j["allow_chopped"] = c.allow_chopped;
  }
  if (!c.train_label_data_paths.empty()) j["labels"] = c.train_label_data_paths;
}

}  // namespace

std::string SettledRun::record(const Trainer* trainer) const {
  const TrainCommand& o = options;
  const TrainerOptions& t = o.trainer;
  nlohmann::ordered_json j;
  j["task"] = o.task;
  j["seed"] = o.seed;
  j["steps"] = t.steps;
  j["accumulation"] = t.accumulation;
  j["ranks"] = ranks;
  j["context_ranks"] = t.context_ranks;
  j["micro_batches"] = t.accumulation * (ranks / t.context_ranks);
  if (o.task == "mqar") {
    j["length"] = o.mqar.length;
    j["pairs"] = o.mqar.pairs;
    j["sequences"] = o.mqar.batch;
  } else if (o.run) {
    add_packed(*o.run, training_tokens, j);
  } else {
    j["sequence_length"] = o.data.task.length;
    j["sequences"] = o.data.task.sequences;
    j["inputs"] = o.data.inputs;
  }
  j["schedule"] = o.schedule;
  j["learning_rate"] = t.schedule.base;
  j["low_rate"] = t.schedule.low;
  j["warmup"] = t.schedule.warmup;
  j["betas"] = {t.adamw.beta1, t.adamw.beta2};
  j["weight_decay"] = t.adamw.weight_decay;
  j["clip"] = t.adamw.clip;
  j["initialization"] = o.initialization;
  j["threads"] = thread_count();
  j["device"] = o.device;
  j["dtype"] = name_of(t.dtype);
  if (trainer != nullptr && trainer->scaler().on()) {
    j["loss_scaler"] = scaler_json(trainer->scaler().state());
  }
  return j.dump(2) + "\n";
}

void SettledRun::check_same(const std::string& saved) const {
  auto before = parse_json(saved, "trainer.json");
  const auto now = parse_json(record(), "the options given");
  if (!before.contains("micro_batches")) {  // saved when there was one rank only
    before["micro_batches"] = before.value("accumulation", 1);
  }
  if (now.contains("loss") && !before.contains("loss")) before["loss"] = "labels";
  constexpr std::string_view free[] = {"threads",      "inputs", "device",        "dtype",
                                       "accumulation", "ranks",  "context_ranks", "loss_scaler"};
  for (const auto& [key, value] : now.items()) {
    if (std::find(std::begin(free), std::end(free), key) != std::end(free)) continue;
    const auto old = before.value(key, nlohmann::json());
    require(old == value, "{}: the run was started with {} {}, now {}; resume with {}",
            options.output, key, old.dump(), value.dump(),
            key == "micro_batches"
                ? "an --accumulation that gives that many in a step over all ranks"
                : "the same options");
  }
}

void SettledRun::require_same_on(Communicator& group, const TrainingTask& task) const {
  std::string names;
  Facts facts;
  const auto add = [&](const nlohmann::json& options_here) {
    for (const auto& [key, value] : options_here.items()) {
      if (key == "threads") continue;
      names += key + " ";
      facts.emplace_back(key, value.dump());
    }
  };
  add(parse_json(record(), "the options given"));
  add(parse_json(config_json(options.config, "float32"), "the model's configuration"));
  std::string tensors;
  for (const auto& spec : expected_tensors(options.config)) {
    tensors += spec.name + spec.shape.text() + " ";
  }
  const LabelledBatch first = task.training_batch(0);
  facts.emplace_back("list of tensors", tensors);
  facts.emplace_back("first training batch",
                     fmt::format("{} {} {}", fmt::join(first.ids, " "),
                                 fmt::join(first.labels, " "), fmt::join(first.offsets, " ")));
  require_same(group, {{"kind of run", names}});  // as many facts on all ranks
  require_same(group, facts);
}

void check_same_model(const TrainCommand& o, const Config& there, const std::string& where) {
  const auto check = [&](const char* key, const auto& asked, const auto& found) {
    require(asked == found,
            "{}: its model has {} {}, not {}; leave that as it is, or start another "
            "run in another folder",
            where, key, found, asked);
  };
  if (o.configured) {
    check("num_layers", o.config.layers, there.layers);
    check("hidden_size", o.config.width, there.width);
    check("num_attention_heads", o.config.heads, there.heads);
    check("intermediate_size", o.config.glu_width, there.glu_width);
    check("no_weight_tying", !o.config.tie_word_embeddings, !there.tie_word_embeddings);
    const auto norm = [](const Config& c) {
      return c.norm == NormType::layernorm ? "layernorm" : "rmsnorm";
    };
    check("norm", std::string_view(norm(o.config)), std::string_view(norm(there)));
    if (o.resume) check("vocab_size, padded,", o.config.vocab_size, there.vocab_size);
    return;
  }
  // What the flags ask for; the others leave the model as it is.
  const auto check_size = [&](std::int64_t given, const char* key, const char* of_preset,
                              std::int64_t asked, std::int64_t found) {
    if (given > 0) {
      check(key, given, found);
    } else if (!o.preset.empty()) {
      check(of_preset, asked, found);
    }
  };
  check_size(o.layers, "--layers", "--preset's layers", o.config.layers, there.layers);
  check_size(o.width, "--width", "--preset's width", o.config.width, there.width);
  check_size(o.heads, "--heads", "--preset's heads", o.config.heads, there.heads);
  check_size(o.glu_width, "--glu-width", "--preset's GLU width", o.config.glu_width,
             there.glu_width);
  if (o.untied) check("--untied", true, !there.tie_word_embeddings);
}

void restore_scaler(Trainer& trainer, const std::string& saved) {
  const auto options = parse_json(saved, "trainer.json");
  if (!trainer.scaler().on() || !options.contains("loss_scaler")) return;
  const auto& s = options["loss_scaler"];
  trainer.restore_scaler({s.value("scale", 1.0), s.value("credits", std::int64_t{0}),
                          s.value("good_steps", std::int64_t{0}),
                          s.value("left_out", std::int64_t{0}),
                          s.value("left_out_in_a_row", std::int64_t{0})});
}

// For the spike guard.
void remember_steps(Trainer& trainer, const TrainCommand& o) {
  if (o.trainer.skip_spikes_above <= 0) return;
  // Steps that overflowed lack one or both, and did not count.
  for (const auto& [loss, norm] : read_metrics_together(
           o.output + "/metrics.jsonl", "train/lm_loss", "train/gradient_norm", trainer.step())) {
    trainer.remember(loss, norm);
  }
}

}  // namespace metala::cli
