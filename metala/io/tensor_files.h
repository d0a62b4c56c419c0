// TensorFiles: the tensors of a model folder, in one file or in shards that an index lists.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "metala/io/tensor_source.h"

namespace metala {

// The first of these in the folder: model.safetensors, model.safetensors.index.json,
// pytorch_model.bin, pytorch_model.bin.index.json. Every shard must hold what the index says, and
// nothing else. Index: {"weight_map": {tensor name: file name in the same folder}}.
class TensorFiles : public TensorSource {
 public:
  static TensorFiles open(const std::string& folder);

  std::vector<std::string> names() const override;
  bool contains(const std::string& name) const override { return where_.contains(name); }
  TensorInfo info(const std::string& name) const override;
  Tensor tensor(const std::string& name) const override;
  const std::string& path_of(const std::string& name) const override;

 private:
  void add_file(std::shared_ptr<const TensorSource> file);
  void add_index(const std::string& folder, const std::string& path);

  std::map<std::string, std::shared_ptr<const TensorSource>> where_;
};

enum class TensorFormat { safetensors, torch };

// The whole file by its name above, or shards of at most `shard_bytes` of tensors with an index.
void write_tensor_files(const std::string& folder, const std::map<std::string, Tensor>& tensors,
                        std::uint64_t shard_bytes, TensorFormat format = TensorFormat::safetensors);

}  // namespace metala
