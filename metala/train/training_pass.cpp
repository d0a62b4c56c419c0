#include "metala/train/training_pass.h"

#include <utility>

#include "metala/autograd/functions.h"

namespace metala {

TrainingPass::TrainingPass(const LanguageModel& model, Tensor sums, bool replay)
    : model_(model), sums_(std::move(sums)), replay_(replay), arena_(model.device()) {}

void TrainingPass::run(const LabelledBatch& batch, Communicator* context, double scale,
                       const TrainingOptions& training) {
  if constexpr (cuda_built) {
    if (model_.device().is_cuda() && context == nullptr) return run_on_gpu(batch, scale, training);
  }
  enqueue(arena_, {batch.batch(context), batch.labels}, scale, training);
}

void TrainingPass::enqueue(Arena& arena, const Inputs& inputs, double scale,
                           const TrainingOptions& training) const {
  arena.reset();
  Tape tape(arena, Tape::Mode::record);
  const Variable hidden = model_.hidden(tape, inputs.batch, {}, &training);
  functions::cross_entropy(tape, hidden, model_.head(), inputs.labels, scale, sums_);
  tape.backward();
}

}  // namespace metala
