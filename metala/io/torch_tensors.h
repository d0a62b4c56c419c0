// What PyTorch's pickles say: dictionaries of tensors that are views of storages.
//
// Only the calls that rebuild tensors and dictionaries are interpreted; every other call stays what
// it is, and is an error where a tensor is made of it. Strides and offsets count elements.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "metala/io/pickle.h"
#include "metala/io/tensor_source.h"

namespace metala {

struct TorchStorage {
  std::string_view key;      // the name its bytes are stored under
  std::string dtype;         // safetensors' word, or C128; empty: bytes without a type
  std::uint64_t offset = 0;  // elements of the stored ones before this storage's first
  std::uint64_t count = 0;   // elements
};

struct TorchView : TensorInfo {
  TorchStorage storage;      // of the view's type
  std::uint64_t offset = 0;  // elements of the storage before the view's first
  std::vector<std::int64_t> strides;

  bool empty() const;
  bool row_major() const;
};

// Bytes of an element of a word that TorchStorage uses.
std::uint64_t torch_element_bytes(const std::string& dtype);

// Whether a value is a call that rebuilds a tensor or parameter.
bool is_torch_tensor(const Pickle&, Pickle::Id);

// `what` starts every error. Checked: the view lies within the storage's count, has no more
// elements than it, and no arithmetic overflows. Whether the file holds the storage is not.
TorchView torch_view(const Pickle&, Pickle::Id, const std::string& what);

// A storage's persistent id: ('storage', type, key, location, count[, view]).
TorchStorage torch_storage(const Pickle&, Pickle::Id, const std::string& what);

bool is_torch_dictionary(const Pickle&, Pickle::Id);  // a dict or OrderedDict
// Its entries with string keys, as they come; none for any other value.
std::vector<std::pair<std::string_view, Pickle::Id>> torch_dictionary(const Pickle&, Pickle::Id);

}  // namespace metala
