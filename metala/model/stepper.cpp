#include "metala/model/stepper.h"

#include "metala/device/cuda/graph.h"

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
  ids_there_ = Tensor::zeros({batch}, DType::i32, model.device());
  offsets_there_ = Tensor::wrap(one_each_.data(), {batch + 1}).to(model.device());
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
  if (model_.device().is_cuda()) return replay();
  model_.advance(arena_, batch(), state_);
}

void Stepper::replay() {
#ifdef METALA_CUDA
  model_.check_ids(ids_);
  ids_there_.copy_from(Tensor::wrap(ids_.data(), ids_there_.shape()));
  const auto memory = memory_of_state(state_);
  if (memory != memory_) {
    // Plans and allocations happen here; the logits' memory may be new afterwards.
    recording_.reset();
    model_.advance(arena_, batch(), state_);
    memory_ = memory_of_state(state_);
    return;
  }
  if (recording_ == nullptr) {
    const auto tokens = state_.tokens();  // recording counts them, but reads nothing
    recording_ = std::make_unique<Recording>(model_.device(),
                                             [&] { model_.advance(arena_, batch(), state_); });
    state_.tokens() = tokens;
  }
  recording_->launch();
  for (auto& count : state_.tokens()) ++count;
#endif
}

}  // namespace metala
