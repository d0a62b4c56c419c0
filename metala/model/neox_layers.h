// The files of a GPT-NeoX checkpoint as layers of joined tensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "metala/base/tensor.h"

namespace metala {

// What a layer holds, by GPT-NeoX's names: "attention.q_proj.weight".
using NeoxLayer = std::map<std::string, Tensor>;

struct NeoxLayers {
  std::map<std::int64_t, NeoxLayer> layers;  // by the index in the pipeline
  std::int64_t parts = 1;                    // of tensor parallelism, now joined
};

// How the parts of a tensor make the whole.
enum class NeoxSplit { rows, columns, replicated };
NeoxSplit neox_split(const std::string& name);

bool is_neox_folder(const std::string& folder);

// Throws Error naming the file and tensor for parts that are missing, differ where they should not,
// or do not fit together.
NeoxLayers read_neox_layers(const std::string& folder);

}  // namespace metala
