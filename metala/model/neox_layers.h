// The files of a GPT-NeoX checkpoint as layers of joined tensors.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "metala/base/tensor.h"

namespace metala {

// What a layer holds, by GPT-NeoX's names: "attention.q_proj.weight".
using NeoxLayer = std::map<std::string, Tensor>;

struct NeoxLayers {
  std::map<std::int64_t, NeoxLayer> layers;  // by the index in the pipeline
  std::int64_t parts = 1;                    // of tensor parallelism, now joined
};

// A tensor of a block: GPT-NeoX's name, the authors' class's, and how parallel parts make the
// whole. GPT-NeoX numbers the channel mixer's gate, down and up as 1, 2, 3; the class gate, up and
// down.
enum class NeoxSplit { rows, columns, replicated };
struct NeoxName {
  const char* theirs;
  const char* ours;
  NeoxSplit split;
  bool optional = false;
};
std::span<const NeoxName> neox_block_names();

bool is_neox_folder(const std::string& folder);

// Throws Error naming the file and tensor for parts that are missing, differ where they should not,
// or do not fit together.
NeoxLayers read_neox_layers(const std::string& folder);

}  // namespace metala
