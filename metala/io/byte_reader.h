// ByteReader: little-endian numbers and runs of bytes from a bounded range, each read checked.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "metala/base/error.h"

namespace metala {

static_assert(std::endian::native == std::endian::little, "files are read without swapping");

class ByteReader {
 public:
  // `source` starts every error, which gives the offset within `bytes` where reading ended.
  ByteReader(std::span<const std::byte> bytes, std::string source)
      : bytes_(bytes), source_(std::move(source)) {}

  std::size_t offset() const { return at_; }
  std::size_t remaining() const { return bytes_.size() - at_; }
  const std::string& source() const { return source_; }

  void seek(std::uint64_t offset) {
    require(offset <= bytes_.size(), "{}: names offset {} of {} bytes", source_, offset,
            bytes_.size());
    at_ = static_cast<std::size_t>(offset);
  }

  std::span<const std::byte> take(std::uint64_t count) {
    require(count <= remaining(), "{}: ends at byte {}, {} bytes short", source_, bytes_.size(),
            count - remaining());
    const auto taken = bytes_.subspan(at_, static_cast<std::size_t>(count));
    at_ += static_cast<std::size_t>(count);
    return taken;
  }

  std::string_view text(std::uint64_t count) {
    const auto taken = take(count);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }

  template <class Number>
  Number number() {
    Number value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
  std::string source_;
  std::size_t at_ = 0;
};

}  // namespace metala
