// Passes on a GPU: memory known beforehand, graphs.
#include <algorithm>
#include <memory>
#include <utility>

#include "metala/base/profile.h"
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/graph.h"
#include "metala/ops/cross_entropy/cross_entropy.h"
#include "metala/train/training_pass.h"

namespace metala {
namespace {

constexpr double gib = 1 << 30;

// The numbers in memory that keeps its place as long as it is large enough.
template <class T>
Mirrored<T> moved_to(Tensor& there, const std::vector<T>& numbers, Device device) {
  const auto count = static_cast<std::int64_t>(numbers.size());
  if (there.count() < count) there = Tensor::uninitialized({count}, dtype_of<T>, device);
  there.rows(0, count).copy_from(
      Tensor::wrap(const_cast<T*>(numbers.data()), {count}));  // read, not written
  return Mirrored<T>(std::span<const T>(numbers), there.template data<T>());
}

}  // namespace

void TrainingPass::run_on_gpu(const LabelledBatch& batch, double scale,
                              const TrainingOptions& training) {
  const Inputs inputs = moved(batch);
  make_room(inputs, training);
  Kind kind = {batch.offsets, 0, scale};
  kind.labelled = std::count_if(batch.labels.begin(), batch.labels.end(),
                                [](std::int32_t label) { return label >= 0; });
  const Config& config = model_.config();
  // Dropout's masks differ from pass to pass, and others are told when a layer is done.
  const bool alike = replay_ && config.hidden_dropout == 0 && config.embedding_dropout == 0 &&
                     !training.layer_done && !profile::enabled();
  if (!alike || kind != last_) {
    recording_ = nullptr;
    last_ = alike ? std::move(kind) : Kind();
    return enqueue(arena_, inputs, scale, training);
  }
  // As the ops do that are not called now.
  model_.check_ids(batch.ids);
  cross_entropy::check_labels(batch.labels, config.vocab_size);
  if (recording_ == nullptr) {
    const auto graph = std::make_shared<const cuda::Graph>(
        model_.device(), [&] { enqueue(arena_, inputs, scale, training); });
    recording_ = [graph] { graph->launch(); };
  }
  recording_();
}

TrainingPass::Inputs TrainingPass::moved(const LabelledBatch& batch) {
  const void* const before[] = {ids_.raw(), labels_.raw(), offsets_.raw()};
  const Device device = model_.device();
  Inputs inputs;
  inputs.batch.ids = moved_to(ids_, batch.ids, device);
  inputs.batch.offsets = moved_to(offsets_, batch.offsets, device);
  inputs.labels = moved_to(labels_, batch.labels, device);
  const void* const after[] = {ids_.raw(), labels_.raw(), offsets_.raw()};
  if (!std::equal(std::begin(before), std::end(before), std::begin(after))) recording_ = nullptr;
  return inputs;
}

void TrainingPass::make_room(const Inputs& inputs, const TrainingOptions& training) {
  const std::size_t tokens = inputs.batch.ids.size();
  const std::size_t sequences = inputs.batch.offsets.size();
  if (tokens <= roomy_tokens_ && sequences <= roomy_sequences_) return;
  const std::size_t needed = bytes_needed(inputs, training);
  if (needed > arena_.capacity()) {
    recording_ = nullptr;
    arena_ = Arena(model_.device());
    roomy_tokens_ = roomy_sequences_ = 0;
    const cuda::DeviceInfo gpu = cuda::info(model_.device());
    if (needed > gpu.free_memory) refuse(inputs, training, needed, gpu.free_memory, gpu.memory);
    arena_.reserve(needed);
  }
  roomy_tokens_ = std::max(roomy_tokens_, tokens);
  roomy_sequences_ = std::max(roomy_sequences_, sequences);
}

std::size_t TrainingPass::bytes_needed(const Inputs& inputs, const TrainingOptions& given) const {
  TrainingOptions training = given;
  training.layer_done = nullptr;
  Arena arena = Arena::without_memory(model_.device());
  cuda::rehearse(model_.device(), [&] { enqueue(arena, inputs, 1, training); });
  return arena.peak();
}

void TrainingPass::refuse(const Inputs& inputs, const TrainingOptions& training, std::size_t needed,
                          std::size_t free, std::size_t memory) const {
  const auto in_gib = [](std::size_t bytes) { return static_cast<double>(bytes) / gib; };
  std::string less;
  if (!training.recompute_blocks) {
    TrainingOptions recomputing = training;
    recomputing.recompute_blocks = true;
    less = fmt::format("--recompute needs {:.1f} GiB; ", in_gib(bytes_needed(inputs, recomputing)));
  }
  if (model_.embedding().value().dtype() == DType::f32) less += "--dtype bf16 needs about half; ";
  fail(
      "train: {} tokens need {:.1f} GiB for activations and their gradients; {:.1f} of {:.1f} GiB "
      "are "
      "free on {}. {}fewer --sequences (with more --accumulation) or a shorter --sequence-length "
      "need less in proportion",
      inputs.batch.ids.size(), in_gib(needed), in_gib(free), in_gib(memory), model_.device().text(),
      less);
}

}  // namespace metala
