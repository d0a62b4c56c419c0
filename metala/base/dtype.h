// Element types of tensors, and the two 16-bit floating-point formats the standard lacks.
//
// q8 and q4 are weights in blocks (quantized.h): their rows are units that only ops made for them
// look into.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace metala {

enum class DType : std::uint8_t { f32, f64, bf16, f16, i32, i64, u8, q8, q4 };

std::size_t size_of(DType);  // bytes of one element; an Error for types in blocks
// Of consecutive elements; for types in blocks a multiple of 64.
std::size_t bytes_of(DType, std::size_t elements);
bool in_blocks(DType);            // q8, q4
std::string_view name_of(DType);  // "f32", "bf16", ...
// What sums, statistics, states and vectors of parameters are held in beside activations of a type:
// f64 for f64, else f32.
constexpr DType accumulation_type(DType type) {
  return type == DType::f64 ? DType::f64 : DType::f32;
}

// bfloat16: the upper half of a float32. Conversion rounds to nearest even and keeps NaN.
struct bf16 {
  std::uint16_t bits = 0;
  bf16() = default;
  explicit bf16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<std::uint16_t>(nan ? (u >> 16) | 0x40u
                                          : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};

// IEEE binary16.
struct f16 {
  std::uint16_t bits = 0;
  f16() = default;
  explicit f16(float value);
  explicit operator float() const;
};

template <class T>
struct dtype_of_type;
template <>
struct dtype_of_type<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct dtype_of_type<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct dtype_of_type<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct dtype_of_type<f16> {
  static constexpr DType value = DType::f16;
};
template <>
struct dtype_of_type<std::int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct dtype_of_type<std::int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct dtype_of_type<std::uint8_t> {
  static constexpr DType value = DType::u8;
};
template <class T>
inline constexpr DType dtype_of = dtype_of_type<T>::value;

}  // namespace metala
