#include "metala/train/trainer.h"

#include <chrono>
#include <cmath>
#include <numbers>

#include "metala/base/profile.h"

namespace metala {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

bool decays(const std::string& name, const Tensor& value, bool decay_all) {
  const bool matrix = value.rank() == 2;
  const bool norm_or_bias = name.ends_with(".bias") || name.ends_with("norm.weight");
  return decay_all ? !norm_or_bias : matrix;
}

Parameters with_gradients(Parameters parameters) {
  parameters.allocate_gradients();
  return parameters;
}

Parameters on_device(const Parameters& parameters, const TrainerOptions& options, DType type) {
  return options.device.is_cpu() ? parameters : parameters.on(options.device, type);
}

}  // namespace

Trainer::Trainer(const Config& config, const Parameters& parameters, const TrainingTask& task,
                 TrainerOptions options)
    : config_(config),
      task_(task),
      options_(std::move(options)),
      weights_(on_device(parameters, options_, DType::f32)),
      working_(with_gradients(on_device(weights_, options_, options_.dtype))),
      model_(config, working_),
      arena_(options_.device),
      sums_(cross_entropy::zero_sums(options_.device)),
      norm_(Tensor::zeros({1}, DType::f64, options_.device)) {
  require(
      options_.dtype == DType::f32 || (options_.dtype == DType::bf16 && options_.device.is_cuda()),
      "train: {} on {}; wanted f32, or bf16 on a GPU", name_of(options_.dtype),
      options_.device.text());
  for (const auto& [name, value] : weights_.tensors()) {
    require(value.dtype() == DType::f32, "train: {} is {}; training needs float32 weights", name,
            name_of(value.dtype()));
    const Tensor& gradient = working_.gradients().at(name);
    const Tensor& working = working_.tensors().at(name);
    const auto moment = [&] { return Tensor::zeros(value.shape(), DType::f32, value.device()); };
    gradients_.push_back(gradient);
    slots_.push_back({name, value, gradient, moment(), moment(),
                      decays(name, value, options_.decay_all),
                      working.dtype() == DType::bf16 ? working : Tensor()});
  }
}

void Trainer::run(const TrainerEvents& events) {
  std::int64_t saved = -1;
  const auto save = [&] {
    if (events.save && saved != step_) events.save(step_);
    saved = step_;
  };
  bool stop = false;
  while (step_ < options_.steps && !stop) {
    const StepReport report = advance();
    if (events.stepped) events.stepped(report);
    const bool last = step_ == options_.steps;
    if (last || (options_.validate_every > 0 && step_ % options_.validate_every == 0)) {
      const ValidationReport validation = validate();
      if (events.validated && validation.tokens > 0) events.validated(validation);
      stop = validation.accuracy >= options_.stop_at_accuracy;
    }
    if (options_.save_every > 0 && step_ % options_.save_every == 0) save();
    if (events.interrupted && events.interrupted()) stop = true;
  }
  save();
}

StepReport Trainer::advance() {
  const auto start = Clock::now();
  std::vector<LabelledBatch> parts;
  std::int64_t labelled = 0;
  StepReport report;
  for (std::int64_t i = 0; i < options_.accumulation; ++i) {
    parts.push_back(task_.training_batch(step_ * options_.accumulation + i));
    for (const auto label : parts.back().labels) labelled += label >= 0 ? 1 : 0;
    report.tokens += static_cast<std::int64_t>(parts.back().ids.size());
  }
  require(labelled > 0, "train: step {} has no labelled token", step_ + 1);

  working_.zero_gradients();
  sums_.fill_zero();
  TrainingOptions training = options_.model;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    training.step = static_cast<std::uint64_t>(step_ * options_.accumulation) + i;
    arena_.reset();
    Tape tape(arena_, Tape::Mode::record);
    const Variable hidden = model_.hidden(tape, parts[i].batch(), {}, &training);
    functions::cross_entropy(tape, hidden, model_.head(), parts[i].labels,
                             1 / static_cast<double>(labelled), sums_);
    tape.backward();
  }

  const profile::Scope scope("optimizer");
  adamw::Options update = options_.adamw;
  update.learning_rate = learning_rate(options_.schedule, step_);
  update.step = step_ + 1;
  adamw::global_norm(gradients_, norm_);
  adamw::update(update, slots_, norm_);
  const double loss = cross_entropy::read(sums_).loss;
  const double norm = norm_.to({}).data<double>()[0];
  require_finite(loss, norm);
  ++step_;

  report.step = step_;
  report.loss = loss / static_cast<double>(labelled);
  report.learning_rate = update.learning_rate;
  report.gradient_norm = norm;
  report.seconds = seconds_since(start);
  return report;
}

void Trainer::require_finite(double loss, double norm) const {
  if (std::isfinite(loss) && std::isfinite(norm)) return;
  for (const auto& slot : slots_) {
    const double own = adamw::global_norm(std::span(&slot.gradient, 1));
    require(std::isfinite(own),
            "train: step {}: the gradient of {} is not finite (loss {}); the last checkpoint is "
            "intact. Resume from it with a lower --learning-rate or a smaller --clip",
            step_ + 1, slot.name, loss);
  }
  fail(
      "train: step {}: the loss is {}; the last checkpoint is intact. Resume from it with a lower "
      "--learning-rate",
      step_ + 1, loss);
}

ValidationReport Trainer::validate() {
  ValidationReport report;
  report.step = step_;
  sums_.fill_zero();
  std::int64_t bytes = 0;
  for (std::int64_t i = 0; i < task_.validation_batches(); ++i) {
    const LabelledBatch batch = task_.validation_batch(i);
    arena_.reset();
    Tape tape(arena_, Tape::Mode::compute);
    const Variable hidden = model_.hidden(tape, batch.batch());
    functions::cross_entropy(tape, hidden, model_.head(), batch.labels, 1, sums_);
    bytes += batch.bytes;
  }
  const cross_entropy::Result sum = cross_entropy::read(sums_);
  if (sum.count == 0) return report;
  report.tokens = sum.count;
  report.loss = sum.loss / static_cast<double>(sum.count);
  report.perplexity = std::exp(report.loss);
  report.accuracy = static_cast<double>(sum.correct) / static_cast<double>(sum.count);
  if (bytes > 0) report.bits_per_byte = sum.loss / std::numbers::ln2 / static_cast<double>(bytes);
  return report;
}

std::map<std::string, Tensor> Trainer::parameters() const {
  std::map<std::string, Tensor> tensors;
  for (const auto& slot : slots_) tensors.emplace(slot.name, slot.parameter.to({}));
  return tensors;
}

std::map<std::string, Tensor> Trainer::optimizer_tensors() const {
  std::map<std::string, Tensor> tensors;
  for (const auto& slot : slots_) {
    tensors.emplace("first_moment." + slot.name, slot.first_moment.to({}));
    tensors.emplace("second_moment." + slot.name, slot.second_moment.to({}));
  }
  return tensors;
}

void Trainer::restore(std::int64_t step, const std::map<std::string, Tensor>& tensors) {
  for (const auto& slot : slots_) {
    const auto take = [&](const std::string& name, const Tensor& into) {
      const auto found = tensors.find(name);
      require(found != tensors.end(), "train: the optimizer state lacks {}", name);
      check_tensor("train: optimizer state " + name, found->second, into.shape(), DType::f32);
      into.copy_from(found->second);
    };
    take("first_moment." + slot.name, slot.first_moment);
    take("second_moment." + slot.name, slot.second_moment);
  }
  step_ = step;
}

}  // namespace metala
