// safetensors: tensors by name in one file, read through a map.
//
// Reading checks everything before it hands anything out: header size, JSON, types, shapes, that
// the tensors cover the data without holes or overlap, that byte counts fit the shapes. Tensors of
// type F64, F32, F16, BF16, I64, I32, U8 (and BOOL, as u8) with at most 4 dimensions can be taken
// out; others are listed, and refused by name when asked for.
// Format: https://github.com/huggingface/safetensors
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "metala/base/tensor.h"
#include "metala/io/file.h"

namespace metala {

struct TensorInfo {
  std::string dtype;  // the file's word: "F32", "BF16", ...
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // bytes, from the start of the data
};

class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(const std::string& name) const { return tensors_.contains(name); }

  // A view of the mapping, or a copy where the file does not align it. Throws Error naming file
  // and tensor when it is missing or cannot be represented.
  Tensor tensor(const std::string& name) const;

 private:
  MappedFile file_;
  std::size_t data_start_ = 0;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Largest types first, then by name, so that every tensor is aligned; atomic (file.h).
void write_safetensors(const std::string& path, const std::map<std::string, Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata);

// The tensors of a model folder: model.safetensors, or the shards that
// model.safetensors.index.json lists.
class TensorFiles {
 public:
  static TensorFiles open(const std::string& folder);
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return where_.contains(name); }
  Tensor tensor(const std::string& name) const;
  const std::string& path_of(const std::string& name) const;

 private:
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t> where_;
};

// model.safetensors, or shards of at most `shard_bytes` of tensors with an index.
void write_tensor_files(const std::string& folder, const std::map<std::string, Tensor>& tensors,
                        std::uint64_t shard_bytes);

}  // namespace metala
