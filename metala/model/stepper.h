// Stepper: one token for every sequence of a state, step after step, in the least time.
//
// The same as LanguageModel::advance with one token each. On a GPU a step goes through FusedStep
// where that takes the model, and the second one is recorded as a graph that later ones replay, as
// long as the state keeps its memory; else it starts over. Steps in which some sequences stand
// still have a graph of their own.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "metala/device/arena.h"
#include "metala/model/language_model.h"
#include "metala/model/state.h"

namespace metala {

class FusedStep;

class Stepper {
 public:
  // Model and state must outlive the stepper.
  Stepper(const LanguageModel& model, State& state);
  ~Stepper();
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;

  // Reads ids[b] into sequence b; a sequence with a negative id stands still. Throws as
  // LanguageModel::advance does.
  void advance(std::span<const std::int32_t> ids);

 private:
  struct Recording;
  Batch batch() const;
  void advance_some();
  void advance_on_gpu(bool some);
  void enqueue(bool some);

  const LanguageModel& model_;
  State& state_;
  Arena arena_;
  std::vector<std::int32_t> ids_;
  std::vector<std::int64_t> one_each_;
  Tensor ids_there_, offsets_there_;  // where kernels read them; the ids in pinned memory
  // Of steps of all sequences [0] and of some [1]: the state's memory at the one before.
  std::array<std::vector<const void*>, 2> memory_;
  std::unique_ptr<FusedStep> fused_;                      // null: the plain model steps
  std::array<std::unique_ptr<Recording>, 2> recordings_;  // of steps on this memory
};

}  // namespace metala
