// TorchFile: the tensors of a file that torch.save wrote, read without running any of its pickle.
//
// Zip files (PyTorch 1.6 and later) and the legacy stream before them are read; the tar files of
// the first versions and TorchScript programs are refused. Tensors are views of the map where their
// strides are row-major and their bytes aligned; two names may share a storage.
// Format: https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>

#include "metala/io/file.h"
#include "metala/io/pickle.h"
#include "metala/io/tensor_source.h"

namespace metala {

class TorchFile : public TensorSource {
 public:
  // The tensors of the dictionary at the top, or of the dictionary under `part` in it ("module").
  // Throws Error naming the file when it is not such a file or has no such dictionary.
  static TorchFile open(const std::string& path, const std::string& part = "");

  const std::string& path() const { return file_.path(); }

  std::vector<std::string> names() const override;
  bool contains(const std::string& name) const override { return tensors_.contains(name); }
  TensorInfo info(const std::string& name) const override;
  Tensor tensor(const std::string& name) const override;
  const std::string& path_of(const std::string&) const override { return path(); }

 private:
  void read_zip();
  void read_legacy();
  void find_tensors(const std::string& part);

  MappedFile file_;
  Pickle pickle_;
  std::map<std::string, std::span<const std::byte>, std::less<>> storages_;
  std::map<std::string, Pickle::Id> tensors_;
};

}  // namespace metala
