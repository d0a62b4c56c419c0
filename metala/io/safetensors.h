// safetensors: tensors by name in one file, read through a map.
//
// Reading checks everything before it hands anything out: header size, JSON, types, shapes, that
// the tensors cover the data without holes or overlap, that byte counts fit the shapes. Tensors
// that metala has no type for are listed, and refused by name when asked for (tensor_source.h).
// Format: https://github.com/huggingface/safetensors
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "metala/base/tensor.h"
#include "metala/io/file.h"
#include "metala/io/tensor_source.h"

namespace metala {

struct SafetensorsEntry : TensorInfo {
  std::uint64_t begin = 0, end = 0;  // bytes, from the start of the data
};

class SafetensorsFile : public TensorSource {
 public:
  static SafetensorsFile open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::map<std::string, SafetensorsEntry>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  std::vector<std::string> names() const override;
  bool contains(const std::string& name) const override { return tensors_.contains(name); }
  TensorInfo info(const std::string& name) const override { return tensors_.at(name); }
  Tensor tensor(const std::string& name) const override;
  const std::string& path_of(const std::string&) const override { return path(); }

 private:
  MappedFile file_;
  std::size_t data_start_ = 0;
  std::map<std::string, SafetensorsEntry> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Largest types first, then by name, so that every tensor is aligned; atomic (file.h).
void write_safetensors(const std::string& path, const std::map<std::string, Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace metala
