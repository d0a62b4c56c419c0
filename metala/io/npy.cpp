#include "metala/io/npy.h"

#include <fmt/format.h>

#include <charconv>
#include <cstring>
#include <string_view>

#include "metala/io/printable.h"

namespace metala {
namespace {

constexpr std::string_view magic("\x93NUMPY\x01\x00", 8);
constexpr std::size_t prologue = magic.size() + 2;  // with the header's length
constexpr std::size_t alignment = 64;

// Takes the header apart, in the one order in which NumPy writes it.
class Header {
 public:
  Header(std::string_view text, const std::string& source) : left_(text), source_(source) {}

  void expect(std::string_view literal) {
    require(left_.starts_with(literal), "{}: its header is not NumPy's at \"{}\"; wanted \"{}\"",
            source_, printable(left_.substr(0, 20)), printable(literal));
    left_.remove_prefix(literal.size());
  }
  bool accept(std::string_view literal) {
    if (!left_.starts_with(literal)) return false;
    left_.remove_prefix(literal.size());
    return true;
  }
  std::string_view until(char end) {
    const std::string_view found = left_.substr(0, left_.find(end));
    left_.remove_prefix(found.size());
    return found;
  }
  std::int64_t number() {
    std::int64_t value = 0;
    const auto [end, failure] = std::from_chars(left_.data(), left_.data() + left_.size(), value);
    require(failure == std::errc() && value >= 0, "{}: its shape is not of whole numbers", source_);
    left_.remove_prefix(static_cast<std::size_t>(end - left_.data()));
    return value;
  }
  void expect_padding() const {
    require(left_.find_first_not_of(" \n") == std::string_view::npos,
            "{}: something follows the shape in its header", source_);
  }

 private:
  std::string_view left_;
  const std::string& source_;
};

}  // namespace

NpyFile NpyFile::open(const std::string& path) {
  NpyFile npy(MappedFile::open(path));
  const std::span<const std::byte> bytes = npy.file_.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  require(text.starts_with(magic) && text.size() >= prologue, "{}: not a .npy file of version 1.0",
          path);
  std::uint16_t length = 0;
  std::memcpy(&length, text.data() + magic.size(), sizeof length);
  npy.begin_ = prologue + length;
  require(npy.begin_ <= text.size() && npy.begin_ % alignment == 0,
          "{}: its header has {} bytes of a file of {}", path, length, text.size());

  Header header(text.substr(prologue, length), path);
  header.expect("{'descr': '");
  npy.descr_ = header.until('\'');
  header.expect("', 'fortran_order': False, 'shape': (");
  std::size_t count = 1;
  while (!header.accept(")")) {
    npy.shape_.push_back(header.number());
    require(!__builtin_mul_overflow(count, static_cast<std::size_t>(npy.shape_.back()), &count),
            "{}: its shape has more elements than can be counted", path);
    if (!header.accept(", ")) header.accept(",");
  }
  header.expect(", }");
  header.expect_padding();
  const bool plain = npy.descr_.size() == 3 && npy.descr_[0] == '<' &&
                     std::string_view("iuf").find(npy.descr_[1]) != std::string_view::npos &&
                     std::string_view("248").find(npy.descr_[2]) != std::string_view::npos;
  require(plain, "{}: holds \"{}\"; wanted little-endian numbers of 2, 4 or 8 bytes", path,
          printable(npy.descr_));
  npy.width_ = static_cast<std::size_t>(npy.descr_[2] - '0');
  npy.count_ = count;
  const std::size_t there = text.size() - npy.begin_;
  require(there % npy.width_ == 0 && there / npy.width_ == count,
          "{}: has {} bytes of numbers; its shape wants {} of {}", path, there, count, npy.width_);
  return npy;
}

void write_npy(const std::string& path, const std::string& descr,
               const std::vector<std::int64_t>& shape, std::span<const std::byte> bytes) {
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}",
                                   descr, fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  const std::size_t unpadded = prologue + header.size() + 1;
  header.append((alignment - unpadded % alignment) % alignment, ' ');
  header += '\n';
  const auto length = static_cast<std::uint16_t>(header.size());
  write_file_atomically(path, [&](std::ostream& out) {
    out.write(magic.data(), magic.size());
    out.write(reinterpret_cast<const char*>(&length), sizeof length);
    out.write(header.data(), static_cast<std::streamsize>(header.size()));
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
  });
}

}  // namespace metala
