// TensorSource: tensors by name, from whatever file holds them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "metala/base/tensor.h"

namespace metala {

struct TensorInfo {
  std::string dtype;  // safetensors' word, whatever the file: "F32", "BF16", ...
  std::vector<std::int64_t> shape;
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  virtual std::vector<std::string> names() const = 0;  // in order of the alphabet
  virtual bool contains(const std::string& name) const = 0;
  // Of a tensor that names() lists.
  virtual TensorInfo info(const std::string& name) const = 0;
  // A view of the mapped file where it can be one, else a copy. Throws Error naming file and tensor
  // when it is missing or cannot be represented: its type is not among F64, F32, F16, BF16, I64,
  // I32, U8 and BOOL (which becomes u8), or it has more than 4 dimensions.
  virtual Tensor tensor(const std::string& name) const = 0;
  // The file a tensor lies in, for messages.
  virtual const std::string& path_of(const std::string& name) const = 0;
};

// The word for a type; Error for types in blocks, which no such file has.
std::string safetensors_word(DType);

// What tensor() does in every source, once the bytes are found. `what` is "FILE: NAME".
DType representable_type(const TensorInfo&, const std::string& what);
Shape representable_shape(const TensorInfo&, const std::string& what);
// A row-major tensor over read-only bytes, or a copy where they are not aligned for the type.
Tensor tensor_over(const std::byte* data, const Shape&, DType, const std::shared_ptr<void>& owner);

}  // namespace metala
