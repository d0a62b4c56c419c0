#include "metala/base/tensor.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "metala/base/quantized.h"
#include "metala/base/threads.h"

namespace metala {
namespace {

std::size_t checked_bytes(const Shape& shape, DType type) {
  require(
      !in_blocks(type) || (shape.rank() > 0 && shape[shape.rank() - 1] % quantized::multiple == 0),
      "tensor: {} of {}; wanted rows of a multiple of {}", shape, name_of(type),
      quantized::multiple);
  std::size_t bytes = bytes_of(type, quantized::multiple);  // of a block, the most that is one unit
  for (const auto size : shape) {
    require(size >= 0, "tensor: negative size in {}", shape);
    const auto n = static_cast<std::size_t>(size);
    require(n == 0 || bytes <= std::numeric_limits<std::size_t>::max() / 2 / n,
            "tensor: {} elements of {} do not fit in memory", shape, name_of(type));
    bytes *= n;
  }
  return bytes_of(type, static_cast<std::size_t>(shape.count()));
}

double load(const std::byte* at, DType type) {
  const auto read = [at]<class T>(T value) {
    std::memcpy(&value, at, sizeof(T));
    return value;
  };
  switch (type) {
    case DType::f32:
      return static_cast<double>(read(float{}));
    case DType::f64:
      return read(double{});
    case DType::bf16:
      return static_cast<double>(static_cast<float>(read(bf16{})));
    case DType::f16:
      return static_cast<double>(static_cast<float>(read(f16{})));
    default:
      fail("tensor: {} is no floating-point type", name_of(type));
  }
}

void store(std::byte* at, DType type, double value) {
  const auto write = [at](auto v) { std::memcpy(at, &v, sizeof(v)); };
  switch (type) {
    case DType::f32:
      return write(static_cast<float>(value));
    case DType::f64:
      return write(value);
    case DType::bf16:
      return write(bf16(static_cast<float>(value)));
    case DType::f16:
      return write(f16(static_cast<float>(value)));
    default:
      fail("tensor: {} is no floating-point type", name_of(type));
  }
}

void convert(const std::byte* from, DType from_type, std::byte* to, DType to_type, std::int64_t n) {
  const auto from_size = static_cast<std::int64_t>(size_of(from_type));
  const auto to_size = static_cast<std::int64_t>(size_of(to_type));
  for (std::int64_t i = 0; i < n; ++i) {
    store(to + i * to_size, to_type, load(from + i * from_size, from_type));
  }
}

// A row to or from a type in blocks, by way of float32.
void convert_blocks(const Tensor& from, const Tensor& to) {
  const std::int64_t n = from.size(0);
  std::vector<float> wide(static_cast<std::size_t>(n));
  auto* floats = reinterpret_cast<std::byte*>(wide.data());
  if (in_blocks(from.dtype())) {
    quantized::dequantize_row(from.raw(), n, from.dtype(), wide.data());
  } else {
    convert(static_cast<const std::byte*>(from.raw()), from.dtype(), floats, DType::f32, n);
  }
  if (in_blocks(to.dtype())) {
    quantized::quantize_row(wide.data(), n, to.dtype(), to.raw());
  } else {
    convert(floats, DType::f32, static_cast<std::byte*>(to.raw()), to.dtype(), n);
  }
}

// Matrices to or from a type in blocks. The first row that cannot be converted says why.
void copy_blocks(const Tensor& to, const Tensor& from) {
  require(to.rank() == 2, "tensor: {} {} to {}; only matrices come in blocks",
          name_of(from.dtype()), from.shape(), name_of(to.dtype()));
  std::vector<std::string> failures(static_cast<std::size_t>(to.size(0)));
  parallel_ranges(to.size(0), 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      try {
        convert_blocks(from.row(i), to.row(i));
      } catch (const Error& e) {
        failures[static_cast<std::size_t>(i)] = e.what();
      }
    }
  });
  for (const auto& failure : failures) require(failure.empty(), "{}", failure);
}

// Calls f(a, b) with the offsets, in elements, of each row of the innermost dimension.
template <class F>
void for_each_row(const Shape& shape, const Tensor& a, const Tensor& b, F f) {
  const int outer = shape.rank() - 1;
  Shape index = shape;
  for (int i = 0; i < outer; ++i) index[i] = 0;
  if (shape.count() == 0) return;
  for (;;) {
    std::int64_t at_a = 0;
    std::int64_t at_b = 0;
    for (int i = 0; i < outer; ++i) {
      at_a += index[i] * a.stride(i);
      at_b += index[i] * b.stride(i);
    }
    f(at_a, at_b);
    int i = outer - 1;
    while (i >= 0 && ++index[i] == shape[i]) index[i--] = 0;
    if (i < 0) return;
  }
}

}  // namespace

Shape::Shape(std::initializer_list<std::int64_t> sizes) {
  require(sizes.size() <= max_rank, "shape: {} dimensions; at most {}", sizes.size(), max_rank);
  for (const auto size : sizes) sizes_[static_cast<std::size_t>(rank_++)] = size;
}

std::int64_t Shape::count() const {
  std::int64_t n = 1;
  for (const auto size : *this) n *= size;
  return n;
}

std::string Shape::text() const {
  return fmt::format("[{}]", fmt::join(begin(), end(), ", "));
}

Tensor Tensor::uninitialized(Shape shape, DType type, Device device) {
  auto memory = memory_of(device).allocate(checked_bytes(shape, type));
  void* const data = memory.get();
  return wrap(data, shape, type, std::move(memory), device);
}

Tensor Tensor::zeros(Shape shape, DType type, Device device) {
  Tensor t = uninitialized(shape, type, device);
  t.fill_zero();
  return t;
}

Tensor Tensor::wrap(void* data, Shape shape, DType type, std::shared_ptr<void> owner,
                    Device device) {
  Tensor t;
  t.defined_ = true;
  t.data_ = data;
  t.shape_ = shape;
  t.strides_ = shape;
  t.dtype_ = type;
  t.device_ = device;
  t.owner_ = std::move(owner);
  std::int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    t.strides_[i] = stride;
    stride *= shape[i];
  }
  return t;
}

bool Tensor::contiguous() const {
  std::int64_t stride = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (size(i) != 1 && strides_[i] != stride) return false;
    stride *= size(i);
  }
  return true;
}

Tensor Tensor::slice(int dimension, std::int64_t begin, std::int64_t end) const {
  require(
      dimension >= 0 && dimension < rank() && 0 <= begin && begin <= end && end <= size(dimension),
      "tensor: slice {}..{} of dimension {} of {}", begin, end, dimension, shape_);
  Tensor t = *this;
  t.shape_[dimension] = end - begin;
  require(!in_blocks(dtype_) || dimension < rank() - 1, "tensor: columns of {} cannot be cut out",
          name_of(dtype_));
  t.data_ = static_cast<std::byte*>(data_) +
            bytes_of(dtype_, static_cast<std::size_t>(begin * strides_[dimension]));
  return t;
}

Tensor Tensor::row(std::int64_t i) const {
  const Tensor one = slice(0, i, i + 1);
  Tensor t = one;
  t.shape_ = {};
  t.strides_ = {};
  const auto drop_first = [&](const Shape& from) {
    switch (rank()) {
      case 1:
        return Shape{};
      case 2:
        return Shape{from[1]};
      case 3:
        return Shape{from[1], from[2]};
      default:
        return Shape{from[1], from[2], from[3]};
    }
  };
  t.shape_ = drop_first(one.shape_);
  t.strides_ = drop_first(one.strides_);
  return t;
}

Tensor Tensor::reshape(Shape shape) const {
  require(contiguous(), "tensor: reshape of a strided view {}", shape_);
  require(shape.count() == shape_.count(), "tensor: reshape of {} to {}", shape_, shape);
  return wrap(data_, shape, dtype_, owner_, device_);
}

Tensor Tensor::copy() const {
  return cast(dtype_);
}

Tensor Tensor::to(Device device) const {
  if (device == device_) return *this;
  Tensor t = uninitialized(shape_, dtype_, device);
  t.copy_from(*this);
  return t;
}

Tensor Tensor::cast(DType type) const {
  Tensor t = uninitialized(shape_, type, device_);
  t.copy_from(*this);
  return t;
}

void Tensor::copy_from(const Tensor& from) const {
  require(shape_ == from.shape_, "tensor: copy of {} into {}", from.shape_, shape_);
  if (count() == 0) return;
  if (!device_.is_cpu() || !from.device_.is_cpu()) return copy_across_devices(from);
  if ((in_blocks(dtype_) || in_blocks(from.dtype_)) && dtype_ != from.dtype_) {
    return copy_blocks(*this, from);
  }
  const Shape flat = rank() == 0 ? Shape{1} : shape_;
  const auto width = flat[flat.rank() - 1];
  for_each_row(flat, *this, from, [&](std::int64_t to_row, std::int64_t from_row) {
    std::byte* out = at(to_row);
    const std::byte* in = from.at(from_row);
    if (dtype_ == from.dtype_) {
      std::memcpy(out, in, bytes_of(dtype_, static_cast<std::size_t>(width)));
    } else {
      convert(in, from.dtype_, out, dtype_, width);
    }
  });
}

// Where one side lies elsewhere: types are converted where the memory is, and rows travel as they
// are.
void Tensor::copy_across_devices(const Tensor& from) const {
  const bool here = device_ == from.device_;
  if (dtype_ != from.dtype_ && !here) {
    const Tensor converted = device_.is_cpu() ? from.to(device_) : from.cast(dtype_);
    return copy_from(converted);
  }
  DeviceMemory& memory = memory_of(device_.is_cpu() ? from.device_ : device_);
  const auto copy_rows = [&](std::int64_t to_row, std::int64_t from_row, std::size_t width,
                             std::size_t count, std::int64_t to_stride, std::int64_t from_stride) {
    const MemoryRows to_rows = {at(to_row), bytes_of(dtype_, static_cast<std::size_t>(to_stride)),
                                device_};
    const MemoryRows from_rows = {from.at(from_row),
                                  bytes_of(from.dtype_, static_cast<std::size_t>(from_stride)),
                                  from.device_};
    if (dtype_ != from.dtype_) {
      memory.convert(to_rows, dtype_, from_rows, from.dtype_, width, count);
    } else {
      memory.copy(to_rows, from_rows, bytes_of(dtype_, width), count);
    }
  };
  if (contiguous() && from.contiguous()) {
    const auto all = static_cast<std::size_t>(count());
    return copy_rows(0, 0, all, 1, count(), count());
  }
  if (rank() == 2) {
    return copy_rows(0, 0, static_cast<std::size_t>(size(1)), static_cast<std::size_t>(size(0)),
                     stride(0), from.stride(0));
  }
  for_each_row(shape_, *this, from, [&](std::int64_t to_row, std::int64_t from_row) {
    const auto width = size(rank() - 1);
    copy_rows(to_row, from_row, static_cast<std::size_t>(width), 1, width, width);
  });
}

void Tensor::fill_zero() const {
  const Shape flat = rank() == 0 ? Shape{1} : shape_;
  const auto width = bytes_of(dtype_, static_cast<std::size_t>(flat[flat.rank() - 1]));
  if (count() == 0) return;
  DeviceMemory& memory = memory_of(device_);
  if (contiguous()) return memory.zero({data_, bytes(), device_}, bytes(), 1);
  if (rank() == 2) {
    const auto pitch = bytes_of(dtype_, static_cast<std::size_t>(stride(0)));
    return memory.zero({data_, pitch, device_}, width, static_cast<std::size_t>(size(0)));
  }
  for_each_row(flat, *this, *this, [&](std::int64_t row, std::int64_t) {
    memory.zero({at(row), width, device_}, width, 1);
  });
}

std::byte* Tensor::at(std::int64_t element) const {
  return static_cast<std::byte*>(data_) + bytes_of(dtype_, static_cast<std::size_t>(element));
}

void Tensor::refuse_read_as(DType wanted) const {
  require(defined(), "tensor: read of an undefined tensor");
  fail("tensor: {} {} read as {}", name_of(dtype_), shape_, name_of(wanted));
}

void check_tensor(std::string_view what, const Tensor& t, const Shape& wanted, DType type) {
  require(t.defined(), "{} is absent; wanted {} {}", what, name_of(type), wanted);
  require(t.shape() == wanted && t.dtype() == type, "{} is {} {}; wanted {} {}", what,
          name_of(t.dtype()), t.shape(), name_of(type), wanted);
  const int last = t.rank() - 1;
  require(t.rank() == 0 || t.size(last) <= 1 || t.stride(last) == 1,
          "{} is {} with stride {} in its last dimension; wanted 1", what, t.shape(),
          t.stride(last));
}

void check_optional(std::string_view what, const Tensor& t, const Shape& wanted, DType type) {
  if (t.defined()) check_tensor(what, t, wanted, type);
}

}  // namespace metala
