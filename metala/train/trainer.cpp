#include "metala/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>

#include "metala/base/profile.h"
#include "metala/distributed/agreement.h"

namespace metala {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

Trainer::Trainer(Communicator& ranks, const Config& config, const Parameters& parameters,
                 const TrainingTask& task, TrainerOptions options)
    : ranks_(ranks),
      config_(config),
      task_(task),
      options_(std::move(options)),
      optimizer_(ranks, parameters,
                 {options_.device, options_.dtype, options_.decay_all, options_.bucket_bytes}),
      model_(config, optimizer_.parameters()),
      arena_(options_.device),
      sums_(cross_entropy::zero_sums(options_.device)),
      norm_(Tensor::zeros({1}, DType::f64, options_.device)) {
  require(
      options_.dtype == DType::f32 || (options_.dtype == DType::bf16 && options_.device.is_cuda()),
      "train: {} on {}; wanted f32, or bf16 on a GPU", name_of(options_.dtype),
      options_.device.text());
  const std::int64_t context = options_.context_ranks;
  require(context >= 1 && ranks.size() % context == 0,
          "train: {} ranks that share each sequence, of {} ranks; wanted a divisor", context,
          ranks.size());
  groups_ = ranks.size() / context;
  group_ = ranks.rank() / context;
  if (context == 1) return;
  require(config.hidden_dropout == 0 && config.embedding_dropout == 0,
          "train: dropout draws its masks for whole sequences; a model with dropout needs "
          "--context-ranks 1");
}

Communicator* Trainer::context() {
  if (options_.context_ranks == 1) return nullptr;
  if (!context_) context_ = ranks_.split(static_cast<int>(group_));
  return context_.get();
}

LabelledBatch Trainer::part_of(LabelledBatch whole) const {
  const std::int64_t ranks = options_.context_ranks;
  if (ranks == 1) return whole;
  return context_part(whole, ranks_.rank() % ranks, ranks,
                      std::max<std::int64_t>(config_.short_conv_width, 1));
}

bool SavePlan::due(std::int64_t step) const {
  if (std::find(also.begin(), also.end(), step) != also.end()) return true;
  if (every <= 0 || step == 0) return false;
  if (!powers) return step % every == 0;
  std::int64_t power = 1;
  while (every > 1 && power < step) power *= every;
  return power == step;
}

bool Trainer::run(const TrainerEvents& events) {
  const auto save = [&] {
    if (events.save && saved_ != step_) events.save(step_);
    saved_ = step_;
  };
  if (step_ == 0 && options_.save.due(0)) save();
  bool stop = false, interrupted = false;
  while (step_ < options_.steps && !stop) {
    const StepReport report = advance();
    if (events.stepped) events.stepped(report);
    const bool last = step_ == options_.steps;
    if (last || (options_.validate_every > 0 && step_ % options_.validate_every == 0)) {
      const ValidationReport validation = validate();
      if (events.validated && validation.tokens > 0) events.validated(validation);
      stop = validation.accuracy >= options_.stop_at_accuracy;
    }
    if (options_.save.due(step_)) save();
    const bool here = events.interrupted && events.interrupted();
    interrupted = ranks_.any(here, "requests to stop");
    stop = stop || interrupted;
  }
  save();
  return interrupted;
}

StepReport Trainer::advance() {
  const auto start = Clock::now();
  const std::int64_t micro_batches = options_.accumulation * groups_;
  const auto number = [&](std::int64_t i) { return step_ * micro_batches + i * groups_ + group_; };
  std::vector<LabelledBatch> parts;
  double counts[] = {0, 0};  // labels, tokens: exact in a double
  for (std::int64_t i = 0; i < options_.accumulation; ++i) {
    parts.push_back(part_of(task_.training_batch(number(i))));
    for (const auto label : parts.back().labels) counts[0] += label >= 0 ? 1 : 0;
    counts[1] += static_cast<double>(parts.back().ids.size());
  }
  sum_over_ranks(counts, "numbers of labels");
  const double labelled = counts[0];
  require(labelled > 0, "train: step {} has no labelled token", step_ + 1);

  optimizer_.zero_gradients();
  sums_.fill_zero();
  TrainingOptions training = options_.model;
  for (std::int64_t i = 0; i < options_.accumulation; ++i) {
    const LabelledBatch& part = parts[static_cast<std::size_t>(i)];
    training.step = static_cast<std::uint64_t>(number(i));
    if (i + 1 == options_.accumulation) {
      training.layer_done = [this](std::int64_t layer) { optimizer_.layer_done(layer); };
    }
    arena_.reset();
    Tape tape(arena_, Tape::Mode::record);
    const Variable hidden = model_.hidden(tape, part.batch(context()), {}, &training);
    functions::cross_entropy(tape, hidden, model_.head(), part.labels, 1 / labelled, sums_);
    tape.backward();
  }
  {
    const profile::Scope scope("gradients of other ranks");
    optimizer_.finish_gradients();
  }

  const profile::Scope scope("optimizer");
  adamw::Options update = options_.adamw;
  update.learning_rate = learning_rate(options_.schedule, step_);
  update.step = step_ + 1;
  optimizer_.global_norm(norm_);
  // Unguarded, the update is under way before anybody waits for the loss; it leaves the weights
  // alone where the norm is not finite.
  const bool guarded = options_.skip_spikes_above > 0;
  if (!guarded) optimizer_.update(update, norm_);
  double loss[] = {cross_entropy::read(sums_).loss};
  sum_over_ranks(loss, "losses");
  const double norm = norm_.to({}).data<double>()[0];
  require_finite(loss[0], norm);
  StepReport report;
  if (guarded) {
    const SpikeGuard::Scores z = guard_.score(loss[0] / labelled, norm);
    report.loss_z = z.loss;
    report.norm_z = z.norm;
    report.skipped = std::max(z.loss, z.norm) > options_.skip_spikes_above;
    if (!report.skipped) optimizer_.update(update, norm_);
  }
  ++step_;

  report.step = step_;
  report.loss = loss[0] / labelled;
  report.learning_rate = update.learning_rate;
  report.gradient_norm = norm;
  report.tokens = static_cast<std::int64_t>(counts[1]);
  report.seconds = seconds_since(start);
  return report;
}

void Trainer::sum_over_ranks(std::span<double> values, const std::string& what) const {
  if (ranks_.alone()) return;
  const auto count = static_cast<std::int64_t>(values.size());
  ranks_.all_reduce(Tensor::wrap(values.data(), {count}), what);
}

void Trainer::require_finite(double loss, double norm) const {
  if (std::isfinite(loss) && std::isfinite(norm)) return;
  // After the sum over ranks every rank sees the same; who owns the tensor names it.
  together(ranks_, [&] {
    const std::string culprit = optimizer_.first_not_finite();
    require(culprit.empty(),
            "train: step {}: the gradient of {} is not finite (loss {}); the last checkpoint is "
            "intact. Resume from it with a lower --learning-rate or a smaller --clip",
            step_ + 1, culprit, loss);
  });
  together(ranks_, [&] {
    fail(
        "train: step {}: the loss is {}; the last checkpoint is intact. Resume from it with a "
        "lower --learning-rate",
        step_ + 1, loss);
  });
}

ValidationReport Trainer::validate(const TrainingTask& task) {
  ValidationReport report;
  report.step = step_;
  sums_.fill_zero();
  std::int64_t bytes = 0;
  for (std::int64_t i = group_; i < task.validation_batches(); i += groups_) {
    const LabelledBatch batch = part_of(task.validation_batch(i));
    arena_.reset();
    Tape tape(arena_, Tape::Mode::compute);
    const Variable hidden = model_.hidden(tape, batch.batch(context()));
    functions::cross_entropy(tape, hidden, model_.head(), batch.labels, 1, sums_);
    bytes += batch.bytes;
  }
  const cross_entropy::Result here = cross_entropy::read(sums_);
  double sums[] = {here.loss, static_cast<double>(here.count), static_cast<double>(here.correct),
                   static_cast<double>(bytes)};
  sum_over_ranks(sums, "validation losses");
  const auto [loss, count, correct, text] = sums;
  if (count == 0) return report;
  report.tokens = static_cast<std::int64_t>(count);
  report.loss = loss / count;
  report.perplexity = std::exp(report.loss);
  report.accuracy = correct / count;
  if (text > 0) report.bits_per_byte = loss / std::numbers::ln2 / text;
  return report;
}

void Trainer::restore(std::int64_t step, const std::map<std::string, Tensor>& optimizer_states) {
  optimizer_.restore(optimizer_states);
  step_ = saved_ = step;
}

}  // namespace metala
