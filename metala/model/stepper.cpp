#include "metala/model/stepper.h"

#include <algorithm>

#include "metala/device/cuda/graph.h"
#include "metala/device/cuda/pinned.h"
#include "metala/model/fused_step.h"

namespace metala {

#ifdef METALA_CUDA
struct Stepper::Recording : cuda::Graph {
  using Graph::Graph;
};
#else
struct Stepper::Recording {};
#endif

namespace {

[[maybe_unused]] std::vector<const void*> memory_of_state(const State& state) {
  std::vector<const void*> memory = {state.logits().raw()};
  for (const auto& layer : state.layers()) {
    memory.push_back(layer.recurrent.raw());
    memory.push_back(layer.conv.raw());
  }
  return memory;
}

}  // namespace

Stepper::Stepper(const LanguageModel& model, State& state)
    : model_(model), state_(state), arena_(model.device()) {
  const std::int64_t batch = state.batch();
  for (std::int64_t b = 0; b <= batch; ++b) one_each_.push_back(b);
  if (model.device().is_cpu()) return;
  offsets_there_ = Tensor::wrap(one_each_.data(), {batch + 1}).to(model.device());
#ifdef METALA_CUDA
  const auto bytes = sizeof(std::int32_t) * static_cast<std::size_t>(batch);
  const auto memory = cuda::pinned_memory(model.device(), bytes);
  ids_there_ = Tensor::wrap(memory.get(), {batch}, DType::i32, memory, model.device());
  if (batch > 0 && FusedStep::takes(model)) fused_ = std::make_unique<FusedStep>(model, batch);
#endif
}

Stepper::~Stepper() = default;

Batch Stepper::batch() const {
  if (model_.device().is_cpu()) return {ids_, one_each_};
  return {Ids(ids_, ids_there_.data<std::int32_t>()),
          Offsets(one_each_, offsets_there_.data<std::int64_t>())};
}

void Stepper::advance(std::span<const std::int32_t> ids) {
  require(static_cast<std::int64_t>(ids.size()) == state_.batch(),
          "model: {} ids for a state of {} sequences", ids.size(), state_.batch());
  ids_.assign(ids.begin(), ids.end());
  const auto standing =
      std::count_if(ids_.begin(), ids_.end(), [](std::int32_t id) { return id < 0; });
  if (standing > 0 && (fused_ == nullptr || standing == state_.batch())) return advance_some();
  if (model_.device().is_cuda()) return advance_on_gpu(standing > 0);
  model_.advance(arena_, batch(), state_);
}

// As the model takes sequences of one token or none.
void Stepper::advance_some() {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> offsets = {0};
  for (const std::int32_t id : ids_) {
    if (id >= 0) ids.push_back(id);
    offsets.push_back(static_cast<std::int64_t>(ids.size()));
  }
  if (!ids.empty()) model_.advance(arena_, {ids, offsets}, state_);
}

void Stepper::advance_on_gpu([[maybe_unused]] bool some) {
#ifdef METALA_CUDA
  std::vector<std::int32_t> read;
  for (const std::int32_t id : ids_) {
    if (id >= 0) read.push_back(id);
  }
  model_.check_ids(read);
  memory_of(model_.device()).synchronize();  // the step before has read its ids
  std::copy(ids_.begin(), ids_.end(), ids_there_.data<std::int32_t>());
  const auto memory = memory_of_state(state_);
  auto& recording = recordings_[some ? 1 : 0];
  auto& known = memory_[some ? 1 : 0];
  if (memory != known) {
    // Plans and allocations happen here; the logits' memory may be new afterwards.
    recording.reset();
    enqueue(some);
    known = memory_of_state(state_);
  } else {
    if (recording == nullptr) {
      recording = std::make_unique<Recording>(model_.device(), [&] { enqueue(some); });
    }
    recording->launch();
  }
  for (std::size_t b = 0; b < ids_.size(); ++b) state_.tokens()[b] += ids_[b] >= 0 ? 1 : 0;
#endif
}

// A step's kernels; the tokens are not counted, for recording reads none.
void Stepper::enqueue([[maybe_unused]] bool some) {
#ifdef METALA_CUDA
  if (fused_ == nullptr) {
    const auto tokens = state_.tokens();
    model_.advance(arena_, batch(), state_);
    state_.tokens() = tokens;
    return;
  }
  if (!state_.logits().defined()) {
    state_.logits() =
        Tensor::zeros({state_.batch(), model_.config().vocab_size}, DType::f32, model_.device());
  }
  fused_->advance(ids_there_.data<std::int32_t>(), some, state_);
#endif
}

}  // namespace metala
