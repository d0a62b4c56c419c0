// NumPy's .npy files: an array of numbers, little-endian, in C order.
//
//   93 "NUMPY" 1 0   u16 length of the header   header   numbers
//   header  {'descr': '<i4', 'fortran_order': False, 'shape': (11, 2), } in ASCII, spaces and a
//   line
//           end, so that the numbers begin at a multiple of 64 bytes
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "metala/base/error.h"
#include "metala/io/file.h"

namespace metala {

class NpyFile {
 public:
  // Throws Error naming the file for what is not of this form, or of another size than it says.
  static NpyFile open(const std::string& path);

  const std::string& descr() const { return descr_; }  // "<i4", "<u4", "<i8" ...
  const std::vector<std::int64_t>& shape() const { return shape_; }
  const std::shared_ptr<void>& owner() const { return file_.owner(); }

  // All numbers, as T, which must be of the width that descr names; valid as long as the owner.
  template <class T>
  std::span<const T> numbers() const {
    require(sizeof(T) == width_, "{}: numbers of {} bytes, read as {}", file_.path(), width_,
            sizeof(T));
    return {reinterpret_cast<const T*>(file_.bytes().data() + begin_), count_};
  }

 private:
  explicit NpyFile(MappedFile file) : file_(std::move(file)) {}

  MappedFile file_;
  std::string descr_;
  std::vector<std::int64_t> shape_;
  std::size_t begin_ = 0, count_ = 0, width_ = 0;
};

// Writes the file atomically (io/file.h). `bytes` are the numbers.
void write_npy(const std::string& path, const std::string& descr,
               const std::vector<std::int64_t>& shape, std::span<const std::byte> bytes);

}  // namespace metala
