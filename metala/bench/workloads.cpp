#include "metala/bench/workloads.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>

#include "metala/base/profile.h"
#include "metala/base/random.h"
#include "metala/bench/machine_limits.h"
#include "metala/model/checkpoint.h"
#include "metala/model/language_model.h"
#include "metala/model/stepper.h"
#include "metala/ops/sample/batch_sampler.h"
#include "metala/train/trainer.h"

namespace metala::bench {
namespace {

double timed(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<std::int32_t> random_ids(std::int64_t count, const Config& config) {
  const Philox random(1);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<std::int32_t>(random.below(
        static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(config.vocab_size))));
  }
  return ids;
}

// Random weights, stored as generation would find them in a file of that type.
Parameters random_parameters(const Config& config, DType weights, Device device = {}) {
  const Parameters p = Parameters::initialized(config, initialization_named("normal"), 1);
  std::map<std::string, Tensor> stored;
  if (device.is_cuda()) return p.on(device, weights);
  for (const auto& spec : expected_tensors(config)) {
    const Tensor& t = p.tensors().at(spec.name);
    const DType type = stored_type(spec, weights);
    stored.emplace(spec.name, type == t.dtype() ? t : t.cast(type));
  }
  return Parameters(std::move(stored));
}

std::vector<std::int64_t> even_offsets(std::int64_t sequences, std::int64_t length) {
  std::vector<std::int64_t> offsets;
  for (std::int64_t b = 0; b <= sequences; ++b) offsets.push_back(b * length);
  return offsets;
}

// The same random tokens at every step, each labelled with the next.
class RandomTask : public TrainingTask {
 public:
  RandomTask(const Config& config, std::int64_t sequences, std::int64_t length) {
    batch_.ids = random_ids(sequences * length, config);
    batch_.labels = batch_.ids;
    std::rotate(batch_.labels.begin(), batch_.labels.begin() + 1, batch_.labels.end());
    batch_.offsets = even_offsets(sequences, length);
  }
  LabelledBatch training_batch(std::int64_t) const override { return batch_; }
  std::int64_t validation_batches() const override { return 0; }
  LabelledBatch validation_batch(std::int64_t) const override { return batch_; }

 private:
  LabelledBatch batch_;
};

Shares shares_of_profile(const Samples& profiled) {
  Shares shares;
  for (const auto& [name, entry] : profile::entries()) {
    const double passes = static_cast<double>(profiled.seconds.size());
    shares.emplace_back(name, entry.seconds / passes / profiled.mean());
  }
  return shares;
}

// Runs `pass` once to warm up, then timed and profiled. On a GPU the profile waits for every part,
// so it has passes of its own.
ComputeResult measure(std::int64_t tokens, std::int64_t repetitions, Device device,
                      const Between& between, const std::function<void()>& pass) {
  ComputeResult result;
  result.tokens = tokens;
  pass();
  profile::clear();
  for (std::int64_t i = 0; i < repetitions; ++i) {
    profile::enable(device.is_cpu());
    result.pass.seconds.push_back(timed(pass));
    profile::enable(false);
    between();
  }
  result.profiled = result.pass;
  if (device.is_cuda()) {
    result.profiled.seconds.clear();
    profile::enable(true, [device] { memory_of(device).synchronize(); });
    for (int i = 0; i < 2; ++i) result.profiled.seconds.push_back(timed(pass));
    profile::enable(false);
  }
  const profile::Entry products = profile::entries()["matrix products"];
  const auto count = static_cast<double>(result.profiled.seconds.size());
  result.product_seconds = products.seconds / count;
  result.product_flops = products.flops / count;
  result.shares = shares_of_profile(result.profiled);
  profile::clear();
  return result;
}

}  // namespace

double Samples::median() const {
  return bench::median(seconds);
}

double Samples::mean() const {
  double sum = 0;
  for (const double s : seconds) sum += s;
  return sum / static_cast<double>(seconds.size());
}

double Samples::least() const {
  return *std::min_element(seconds.begin(), seconds.end());
}
double Samples::most() const {
  return *std::max_element(seconds.begin(), seconds.end());
}

double DecodeResult::tokens_per_second() const {
  return static_cast<double>(batch) / step.median();
}

double DecodeResult::bytes_per_second() const {
  return static_cast<double>(weight_bytes) / step.median();
}

double DecodeResult::bytes_with_state_per_second() const {
  return static_cast<double>(weight_bytes + state_bytes) / step.median();
}

double ComputeResult::tokens_per_second() const {
  return static_cast<double>(tokens) / pass.median();
}

Config config_374m() {
  Config c;
  c.glu_width = 2816;
  c.tie_word_embeddings = false;
  return c;
}

DecodeBench::DecodeBench(const Config& config, Place place)
    : parameters_(random_parameters(config, place.weights, place.device)),
      model_(config, parameters_) {}

DecodeResult DecodeBench::run(
    std::int64_t batch, std::int64_t context, std::int64_t steps,
    const std::function<void(const std::vector<Tensor>&)>& between) const {
  const Config& config = model_.config();
  const Device device = model_.device();
  DecodeResult result;
  result.batch = batch;
  result.context = context;
  std::vector<Tensor> read;
  for (const auto& [name, tensor] : parameters_.tensors()) {
    const bool looked_up = name == "model.embed_tokens.weight" && !config.tie_word_embeddings;
    if (looked_up) continue;
    result.weight_bytes += static_cast<std::int64_t>(tensor.bytes());
    read.push_back(tensor);
  }
  Arena arena(device);
  State state(config, batch, DType::f32, device);
  for (const auto& layer : state.layers()) {
    result.state_bytes += 2 * static_cast<std::int64_t>(layer.recurrent.bytes());
  }
  const auto prompt = random_ids(batch * context, config);
  const auto prompt_offsets = even_offsets(batch, context);
  if (context > 0) model_.advance(arena, {prompt, prompt_offsets}, state);
  const auto ids = random_ids(batch * (steps + 4), config);
  Stepper stepper(model_, state);
  sample::BatchSampler greedy(device, batch, {.temperature = 0});
  const std::vector<sample::Draw> draws(static_cast<std::size_t>(batch));
  for (std::int64_t i = 0; i < steps + 4; ++i) {
    const std::span<const std::int32_t> next(ids.data() + i * batch,
                                             static_cast<std::size_t>(batch));
    const double seconds = timed([&] {
      stepper.advance(next);
      if (device.is_cuda()) greedy.choose(state.logits(), draws);
    });
    if (i < 4) continue;  // the first few warm caches and arena
    result.step.seconds.push_back(seconds);
    between(read);
  }
  if (device.is_cpu()) {  // steps on a GPU are replayed, not called part by part
    profile::clear();
    profile::enable(true);
    for (std::int64_t i = 4; i < steps + 4; ++i) {
      const std::span<const std::int32_t> next(ids.data() + i * batch,
                                               static_cast<std::size_t>(batch));
      result.profiled.seconds.push_back(timed([&] { stepper.advance(next); }));
    }
    profile::enable(false);
    result.shares = shares_of_profile(result.profiled);
    profile::clear();
  }
  return result;
}

ComputeResult prefill(const Config& config, Place place, std::int64_t tokens,
                      std::int64_t repetitions, const Between& between) {
  const LanguageModel model(config, random_parameters(config, place.weights, place.device));
  const auto ids = random_ids(tokens, config);
  const auto offsets = even_offsets(1, tokens);
  Arena arena(place.device);
  return measure(tokens, repetitions, place.device, between, [&] {
    State state(config, 1, DType::f32, place.device);
    model.advance(arena, {ids, offsets}, state);
    memory_of(place.device).synchronize();
  });
}

ComputeResult training_step(const Config& config, Place place, std::int64_t sequences,
                            std::int64_t length, std::int64_t repetitions, const Between& between) {
  const RandomTask task(config, sequences, length);
  TrainerOptions options;
  options.device = place.device;
  options.dtype = place.device.is_cuda() ? place.weights : DType::f32;
  options.schedule = {ScheduleKind::constant, 1e-5, 1e-5, 0, 1};
  const auto ranks = alone();
  Trainer trainer(*ranks, config, random_parameters(config, DType::f32), task, options);
  return measure(sequences * length, repetitions, place.device, between,
                 [&] { trainer.advance(); });
}

}  // namespace metala::bench
