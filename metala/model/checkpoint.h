// Checkpoint: a model's folder as Hugging Face's class writes it, config.json and weights.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "metala/base/tensor.h"
#include "metala/io/tensor_files.h"
#include "metala/model/config.h"

namespace metala {

struct TensorSpec {
  std::string name;
  Shape shape;
};

// Every tensor of a model of this configuration, under the names of the authors' class, in order.
std::vector<TensorSpec> expected_tensors(const Config&);

// The type in which save_checkpoint stores a tensor when `wanted` is asked for.
DType stored_type(const TensorSpec&, DType wanted);

struct Checkpoint {
  Config config;
  std::map<std::string, Tensor> tensors;  // views of the mapped files
  std::vector<std::string> notes;         // what is odd but harmless, for the user
};

// Maps the weights; reads none of them. Throws one-line Errors naming file and tensor for anything
// missing, misshapen or left over.
Checkpoint load_checkpoint(const std::string& folder);

// Writes config.json last, so that a folder with one is complete. Tensors are written in `dtype`:
// f32, bf16, f16, or in blocks (base/quantized.h): q8 or q4 for large matrices, whose bytes are
// stored as U8 [rows, bytes of a row], bf16 for k_gate and matrices whose rows are no multiple of
// 64, q8 for embedding and head, f32 for the rest. The head is left out when tied. Other files of
// the folder are left alone.
void save_checkpoint(const std::string& folder, const Config&,
                     const std::map<std::string, Tensor>& tensors, DType dtype = DType::f32,
                     std::uint64_t shard_bytes = std::uint64_t{5} << 30,
                     TensorFormat format = TensorFormat::safetensors);

// Throws Error naming the first tensor that holds a NaN or an infinity. Reads all weights.
void check_finite(const std::map<std::string, Tensor>& tensors, const std::string& folder);

// 16 hexadecimal digits that depend on the configuration and every bit of every weight. For telling
// models apart, not against an adversary. Reads all weights.
std::string fingerprint(const Config&, const std::map<std::string, Tensor>& tensors);

}  // namespace metala
