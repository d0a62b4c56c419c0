#include "metala/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "metala/base/half.h"
#include "metala/base/profile.h"
#include "metala/distributed/agreement.h"

namespace metala {
namespace {

constexpr std::int64_t hopeless = 50;                 // steps in a row without a label
constexpr std::int64_t most_micro_batches = 1 << 20;  // of a step, which holds their ids together

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
      sums_(cross_entropy::zero_sums(options_.device)),
      norm_(Tensor::zeros({1}, DType::f64, options_.device)),
      pass_(model_, sums_, options_.replay),
      scaler_(options_.scaling) {
  require(options_.dtype == DType::f32 || (is_half(options_.dtype) && options_.device.is_cuda()),
          "train: {} on {}; wanted f32, or bf16 or f16 on a GPU", name_of(options_.dtype),
          options_.device);
  const std::int64_t context = options_.context_ranks;
  require(context >= 1 && ranks.size() % context == 0,
          "train: {} ranks that share each sequence, of {} ranks; wanted a divisor", context,
          ranks.size());
  groups_ = ranks.size() / context;
  group_ = ranks.rank() / context;
  require(
      options_.accumulation >= 1 && options_.accumulation <= most_micro_batches / groups_,
      "train: --accumulation {} in each of {} groups of ranks; wanted 1 to {} micro batches in a "
      "step",
      options_.accumulation, groups_, most_micro_batches);
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
  std::vector<double> counts(static_cast<std::size_t>(micro_batches) +
                             1);  // labels of each, tokens
  for (std::int64_t i = 0; i < options_.accumulation; ++i) {
    parts.push_back(part_of(task_.training_batch(number(i))));
    double& labels = counts[static_cast<std::size_t>(i * groups_ + group_)];
    for (const auto label : parts.back().labels) labels += label >= 0 ? 1 : 0;
    counts.back() += static_cast<double>(parts.back().ids.size());
  }
  sum_over_ranks(counts, "numbers of labels");
  const double tokens = counts.back();
  counts.pop_back();
  // Steps that overflowed count for neither schedule nor AdamW.
  const std::int64_t taken = step_ - scaler_.state().left_out;
  StepReport report;
  report.learning_rate = learning_rate(options_.schedule, taken);
  report.loss_scale = scaler_.scale();
  report.tokens = static_cast<std::int64_t>(tokens);
  report.unlabelled = std::accumulate(counts.begin(), counts.end(), 0.0) == 0;
  unlabelled_in_a_row_ = report.unlabelled ? unlabelled_in_a_row_ + 1 : 0;
  require(unlabelled_in_a_row_ < hopeless,
          "train: step {}: no token of the last {} steps has a label; are the labels those of this "
          "data?",
          step_ + 1, hopeless);
  if (report.unlabelled) {
    report.step = ++step_;
    report.loss = report.gradient_norm = std::numeric_limits<double>::quiet_NaN();
    report.seconds = seconds_since(start);
    return report;
  }
  const std::vector<double> weights = label_weights(counts);

  const double scale = scaler_.scale();
  optimizer_.zero_gradients();
  sums_.fill_zero();
  TrainingOptions training = options_.model;
  double loss[] = {0};
  const auto add_losses = [&](double weight) {
    loss[0] += weight * cross_entropy::read(sums_).loss;
    sums_.fill_zero();
  };
  for (std::int64_t i = 0; i < options_.accumulation; ++i) {
    training.step = static_cast<std::uint64_t>(number(i));
    if (i + 1 == options_.accumulation && !ranks_.alone()) {
      training.layer_done = [this](std::int64_t layer) { optimizer_.layer_done(layer); };
    }
    const double weight = weights[static_cast<std::size_t>(i * groups_ + group_)];
    pass_.run(parts[static_cast<std::size_t>(i)], context(), scale * weight, training);
    if (options_.mean_of_means) add_losses(weight);
  }
  {
    const profile::Scope scope("gradients of other ranks");
    optimizer_.finish_gradients();
  }

  const profile::Scope scope("optimizer");
  adamw::Options update = options_.adamw;
  update.learning_rate = report.learning_rate;
  update.step = taken + 1;
  update.gradient_scale = 1 / scale;
  // The device learns a loss that was read before it was complete.
  if (options_.mean_of_means) sums_.rows(0, 1).copy_from(Tensor::wrap(loss, {1}));
  optimizer_.global_norm(sums_.rows(0, 1), norm_);
  // Unguarded on a GPU, the update is under way before anybody waits for the loss; it leaves the
  // weights alone where loss or gradients are not finite, on any rank.
  const bool guarded = options_.skip_spikes_above > 0;
  const bool early = !guarded && options_.device.is_cuda();
  if (early) optimizer_.update(update, norm_);
  if (!options_.mean_of_means) add_losses(weights.front());
  sum_over_ranks(loss, "losses");
  const double norm = norm_.to({}).data<double>()[0] / scale;
  report.overflowed = scaler_.on() && !(std::isfinite(loss[0]) && std::isfinite(norm));
  if (report.overflowed) {
    const std::string hopeless = scaler_.overflowed();
    if (!hopeless.empty()) require_finite(loss[0], norm, " (" + hopeless + ")");
  } else {
    require_finite(loss[0], norm);
    scaler_.passed();
  }
  if (guarded && !report.overflowed) {
    const SpikeGuard::Scores z = guard_.score(loss[0], norm);
    report.loss_z = z.loss;
    report.norm_z = z.norm;
    report.skipped = std::max(z.loss, z.norm) > options_.skip_spikes_above;
  }
  if (!early && !report.overflowed && !report.skipped) optimizer_.update(update, norm_);
  ++step_;

  report.step = step_;
  report.loss = loss[0];
  report.gradient_norm = norm;
  report.seconds = seconds_since(start);
  return report;
}

std::vector<double> Trainer::label_weights(const std::vector<double>& labels) const {
  const double all = std::accumulate(labels.begin(), labels.end(), 0.0);
  std::vector<double> weights(labels.size(), 1 / all);
  if (!options_.mean_of_means) return weights;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    weights[i] = 1 / (std::max(labels[i], 1.0) * static_cast<double>(labels.size()));
  }
  return weights;
}

void Trainer::sum_over_ranks(std::span<double> values, const std::string& what) const {
  if (ranks_.alone()) return;
  const auto count = static_cast<std::int64_t>(values.size());
  ranks_.all_reduce(Tensor::wrap(values.data(), {count}), what);
}

void Trainer::require_finite(double loss, double norm, const std::string& why) const {
  if (std::isfinite(loss) && std::isfinite(norm)) return;
  // After the sum over ranks every rank sees the same; who owns the tensor names it.
  together(ranks_, [&] {
    const std::string culprit = optimizer_.first_not_finite();
    require(culprit.empty(),
            "train: step {}: the gradient of {} is not finite{} (loss {}); the last checkpoint is "
            "intact. Resume from it with a lower --learning-rate or a smaller --clip",
            step_ + 1, culprit, why, loss);
  });
  together(ranks_, [&] {
    fail(
        "train: step {}: the loss is {}{}; the last checkpoint is intact. Resume from it with a "
        "lower --learning-rate",
        step_ + 1, loss, why);
  });
}

ValidationReport Trainer::validate(const TrainingTask& task) {
  ValidationReport report;
  report.step = step_;
  sums_.fill_zero();
  const std::int64_t batches = task.validation_batches();
  double sums[] = {0, 0, 0, 0};  // losses, labels, right ones, bytes
  std::vector<double> losses(static_cast<std::size_t>(batches)), labels(losses.size());
  const auto take = [&](std::int64_t i) {
    const cross_entropy::Result r = cross_entropy::read(sums_);
    sums_.fill_zero();
    sums[0] += losses[static_cast<std::size_t>(i)] = r.loss;
    sums[1] += labels[static_cast<std::size_t>(i)] = static_cast<double>(r.count);
    sums[2] += static_cast<double>(r.correct);
  };
  for (std::int64_t i = group_; i < batches; i += groups_) {
    const LabelledBatch batch = part_of(task.validation_batch(i));
    pass_.arena().reset();
    Tape tape(pass_.arena(), Tape::Mode::compute);
    const Variable hidden = model_.hidden(tape, batch.batch(context()));
    functions::cross_entropy(tape, hidden, model_.head(), batch.labels, 1, sums_);
    sums[3] += static_cast<double>(batch.bytes);
    if (options_.mean_of_means || i + groups_ >= batches) take(i);
  }
  sum_over_ranks(sums, "validation losses");
  const auto [loss, count, correct, text] = sums;
  if (count == 0) return report;
  report.tokens = static_cast<std::int64_t>(count);
  report.loss = loss / count;
  if (options_.mean_of_means) {
    sum_over_ranks(losses, "losses of validation batches");
    sum_over_ranks(labels, "labels of validation batches");
    report.loss = 0;
    for (std::size_t i = 0; i < losses.size(); ++i) {
      report.loss += losses[i] / std::max(labels[i], 1.0) / static_cast<double>(batches);
    }
  }
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
