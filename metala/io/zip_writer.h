// ZipWriter: a zip file of stored entries whose contents are aligned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <span>
#include <string>
#include <vector>

namespace metala {

// Sizes and places always stand in zip64 fields, so that files of any size are written alike.
// Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
class ZipWriter {
 public:
  static constexpr std::size_t alignment = 64;  // of contents, from the start of the file

  explicit ZipWriter(std::ostream& out) : out_(out) {}

  void add(const std::string& name, std::span<const std::byte> contents);
  void add(const std::string& name, const std::string& contents);
  void finish();  // writes the directory; the last call

 private:
  struct Entry {
    std::string name;
    std::uint64_t header = 0, bytes = 0;
    std::uint32_t checksum = 0;
  };

  void write(const std::string& bytes);

  std::ostream& out_;
  std::uint64_t at_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace metala
