// Writing a checkpoint that GPT-NeoX loads.
#pragma once

#include <map>
#include <string>

#include "metala/base/tensor.h"
#include "metala/model/config.h"

namespace metala {

// Writes layer_XX-model_00-model_states.pt, as neox.h describes the folder, and metala.yml with the
// keys that say the model's shape. The folder is made. Norms are rmsnorm with scales of 1. Throws
// Error for what GPT-NeoX's MetaLA does not have: the extensions of config.h, LayerNorms, and
// weights in blocks.
void save_neox(const std::string& folder, const Config&,
               const std::map<std::string, Tensor>& tensors, DType dtype = DType::f32);

}  // namespace metala
