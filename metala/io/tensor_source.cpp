#include "metala/io/tensor_source.h"

#include <cstring>
#include <map>

#include "metala/base/error.h"

namespace metala {

std::string safetensors_word(DType type) {
  switch (type) {
    case DType::f32:
      return "F32";
    case DType::f64:
      return "F64";
    case DType::bf16:
      return "BF16";
    case DType::f16:
      return "F16";
    case DType::i32:
      return "I32";
    case DType::i64:
      return "I64";
    case DType::u8:
      return "U8";
    case DType::q8:
    case DType::q4:
      break;
  }
  fail("safetensors: has no type for {}", name_of(type));
}

DType representable_type(const TensorInfo& info, const std::string& what) {
  static const std::map<std::string, DType> types = {
      {"F32", DType::f32}, {"F64", DType::f64}, {"BF16", DType::bf16}, {"F16", DType::f16},
      {"I32", DType::i32}, {"I64", DType::i64}, {"U8", DType::u8},     {"BOOL", DType::u8}};
  const auto type = types.find(info.dtype);
  require(type != types.end(), "{} is {}; supported: F64, F32, F16, BF16, I64, I32, U8, BOOL", what,
          info.dtype);
  return type->second;
}

Shape representable_shape(const TensorInfo& info, const std::string& what) {
  const auto& s = info.shape;
  require(s.size() <= Shape::max_rank, "{} has {} dimensions; at most {}", what, s.size(),
          Shape::max_rank);
  switch (s.size()) {
    case 0:
      return {};
    case 1:
      return {s[0]};
    case 2:
      return {s[0], s[1]};
    case 3:
      return {s[0], s[1], s[2]};
    default:
      return {s[0], s[1], s[2], s[3]};
  }
}

Tensor tensor_over(const std::byte* data, const Shape& shape, DType type,
                   const std::shared_ptr<void>& owner) {
  if (reinterpret_cast<std::uintptr_t>(data) % size_of(type) != 0) {
    const Tensor copy = Tensor::uninitialized(shape, type);
    std::memcpy(copy.raw(), data, copy.bytes());
    return copy;
  }
  // Mapped read-only: whoever wants to write takes a copy.
  return Tensor::wrap(const_cast<std::byte*>(data), shape, type, owner);
}

}  // namespace metala
