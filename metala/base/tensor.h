// Tensor: a strided view of shared memory. A small value: copying it copies the handle, not the
// data, and it has no arithmetic of its own (ops/ does).
//
// The innermost dimension of what ops read and write is contiguous; outer strides are free, so a
// slice of columns or rows is a tensor like any other. Strides count elements, in 64 bits.
// Ops take inputs as `const Tensor&` and outputs as `Tensor` by value: a handle to write through.
// A default-constructed tensor is undefined and stands for "absent" in optional arguments.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

#include "metala/base/device.h"
#include "metala/base/dtype.h"
#include "metala/base/error.h"

namespace metala {

class Shape {
 public:
  static constexpr int max_rank = 4;
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> sizes);
  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return sizes_[static_cast<std::size_t>(i)]; }
  std::int64_t& operator[](int i) { return sizes_[static_cast<std::size_t>(i)]; }
  const std::int64_t* begin() const { return sizes_.data(); }
  const std::int64_t* end() const { return sizes_.data() + rank_; }
  std::int64_t count() const;  // number of elements; 1 for rank 0
  bool operator==(const Shape&) const = default;
  std::string text() const;  // "[2, 64, 8]"

 private:
  std::array<std::int64_t, max_rank> sizes_{};
  int rank_ = 0;
};

class Tensor {
 public:
  Tensor() = default;

  // Fresh memory, 64-byte aligned.
  static Tensor zeros(Shape, DType = DType::f32, Device = {});
  static Tensor uninitialized(Shape, DType = DType::f32, Device = {});
  // Memory of someone else, row-major; `owner` is kept alive as long as any view of it.
  static Tensor wrap(void* data, Shape, DType, std::shared_ptr<void> owner = nullptr, Device = {});
  template <class T>
  static Tensor wrap(T* data, Shape shape, std::shared_ptr<void> owner = nullptr) {
    return wrap(static_cast<void*>(data), shape, dtype_of<T>, std::move(owner));
  }

  bool defined() const { return defined_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  std::int64_t size(int i) const { return shape_[i]; }
  std::int64_t stride(int i) const { return strides_[i]; }
  std::int64_t count() const { return defined() ? shape_.count() : 0; }
  std::size_t bytes() const { return bytes_of(dtype_, static_cast<std::size_t>(count())); }
  bool contiguous() const;

  // The first element. Throws when T is not the tensor's type.
  template <class T>
  T* data() const {
    if (!defined_ || dtype_ != dtype_of<T>) refuse_read_as(dtype_of<T>);
    return static_cast<T*>(data_);
  }
  void* raw() const { return data_; }

  // Views that share the memory.
  Tensor slice(int dimension, std::int64_t begin, std::int64_t end) const;
  Tensor rows(std::int64_t begin, std::int64_t end) const { return slice(0, begin, end); }
  Tensor row(std::int64_t i) const;  // one index of the first dimension, which goes away
  Tensor reshape(Shape) const;       // contiguous tensors only
  Tensor copy() const;               // fresh contiguous memory, same values
  Tensor to(Device) const;           // the same, or this tensor if it lies there already
  // Fresh contiguous memory on the same device, values rounded to the type. Matrices can be cast to
  // and from types in blocks when their rows are a multiple of 64.
  Tensor cast(DType) const;

  void copy_from(
      const Tensor&) const;  // same shape, any pair of float types (or in blocks), or equal types
  void fill_zero() const;

 private:
  [[noreturn]] void refuse_read_as(DType wanted) const;
  void copy_across_devices(const Tensor&) const;
  std::byte* at(std::int64_t element) const;  // counted in memory, strides included
  void* data_ = nullptr;
  Shape shape_;
  Shape strides_;
  std::shared_ptr<void> owner_;
  DType dtype_ = DType::f32;
  Device device_;
  bool defined_ = false;  // an empty tensor (a dimension of 0) is defined and may have no memory
};

// Checks at an op's door. `what` names op and argument: "rms_norm: x".
// Throws Error: "rms_norm: x is f32 [3, 5]; wanted f32 [3, 4]".
void check_tensor(std::string_view what, const Tensor&, const Shape& wanted, DType wanted_type);
void check_optional(std::string_view what, const Tensor&, const Shape& wanted, DType wanted_type);

}  // namespace metala

#ifndef __CUDACC__
// As text(), which is made only where a message is: what checks an argument costs a comparison.
template <>
struct fmt::formatter<metala::Shape> : fmt::formatter<std::string> {
  template <class Context>
  auto format(const metala::Shape& shape, Context& context) const {
    return fmt::formatter<std::string>::format(shape.text(), context);
  }
};
#endif
