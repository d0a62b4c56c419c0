// Checkpoints of GPT-NeoX, the framework that the authors trained with, read as ours.
//
// A folder holds layer_XX-model_YY-model_states.pt for every layer XX and every part YY that tensor
// parallelism split it into, or mp_rank_YY_model_states.pt with all layers under "module". Layer 0
// is the embedding, i + 2 block i, L + 3 the final norm, L + 4 the head.
//
// The parts are joined. Scales of RMS norms, which our models do not have, are folded into what
// reads the norm's output, in f32: the convolution, w1 and w3, and the head. LayerNorms become
// ours.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "metala/model/checkpoint.h"
#include "metala/model/neox_layers.h"

namespace metala {

struct NeoxOptions {
  std::string config;                 // the run's YAML; empty: the folder's only *.yml or *.yaml
  std::optional<std::int64_t> heads;  // where no YAML says so
  std::optional<bool> tied;           //
};

// Everything that stands in the files must be part of the model, and all of the model in the files:
// Errors name file and tensor. Notes say what was assumed or changed. The vocabulary keeps the rows
// that padded it.
Checkpoint load_neox(const std::string& folder, const NeoxOptions& = {});

}  // namespace metala
