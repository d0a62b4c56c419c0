// Zip files made by hand in memory, for tests of what reads them. Checksums are left 0.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace metala::harness {

struct ZipOptions {
  std::uint16_t method = 0;
  std::uint16_t flags = 0;
  bool descriptors = false;   // the local headers leave sizes to a record behind the contents
  bool zip64 = false;         // every size and offset stands in zip64 fields
  std::size_t alignment = 1;  // of contents, by padding the local extra field
};

template <class Number>
void append_number(std::string& bytes, Number value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

inline std::string zip_of(const std::vector<std::pair<std::string, std::string>>& entries,
                          const ZipOptions& options = {}) {
  const auto u16 = [](std::string& to, std::size_t v) {
    append_number(to, static_cast<std::uint16_t>(v));
  };
  const auto u32 = [](std::string& to, std::size_t v) {
    append_number(to, static_cast<std::uint32_t>(v));
  };
  const std::size_t elsewhere = 0xffffffff;
  const std::size_t flags = options.flags | (options.descriptors ? 8u : 0u);
  std::string bytes, directory;
  for (const auto& [name, content] : entries) {
    const std::size_t header = bytes.size();
    const std::size_t local_size = options.descriptors ? 0 : content.size();
    std::size_t padding = 0;
    if (options.alignment > 1) {
      const std::size_t content_at = header + 30 + name.size() + 4;
      padding = 4 + (options.alignment - content_at % options.alignment) % options.alignment;
    }
    u32(bytes, 0x04034b50);
    u16(bytes, 20), u16(bytes, flags), u16(bytes, options.method);
    u32(bytes, 0), u32(bytes, 0), u32(bytes, local_size), u32(bytes, local_size);
    u16(bytes, name.size()), u16(bytes, padding);
    bytes += name;
    if (padding > 0) {
      bytes += "FB";
      u16(bytes, padding - 4);
      bytes.append(padding - 4, 'Z');
    }
    bytes += content;
    if (options.descriptors) {
      u32(bytes, 0x08074b50);
      u32(bytes, 0), u32(bytes, content.size()), u32(bytes, content.size());
    }
    const std::size_t size = options.zip64 ? elsewhere : content.size();
    u32(directory, 0x02014b50);
    u16(directory, 20), u16(directory, 20), u16(directory, flags);
    u16(directory, options.method);
    u32(directory, 0), u32(directory, 0), u32(directory, size), u32(directory, size);
    u16(directory, name.size()), u16(directory, options.zip64 ? 28 : 0), u16(directory, 0);
    u16(directory, 0), u16(directory, 0), u32(directory, 0);
    u32(directory, options.zip64 ? elsewhere : header);
    directory += name;
    if (options.zip64) {
      u16(directory, 1), u16(directory, 24);
      append_number<std::uint64_t>(directory, content.size());
      append_number<std::uint64_t>(directory, content.size());
      append_number<std::uint64_t>(directory, header);
    }
  }
  const std::size_t start = bytes.size();
  bytes += directory;
  if (options.zip64) {
    const std::size_t record = bytes.size();
    u32(bytes, 0x06064b50);
    append_number<std::uint64_t>(bytes, 44);
    u16(bytes, 45), u16(bytes, 45), u32(bytes, 0), u32(bytes, 0);
    append_number<std::uint64_t>(bytes, entries.size());
    append_number<std::uint64_t>(bytes, entries.size());
    append_number<std::uint64_t>(bytes, directory.size());
    append_number<std::uint64_t>(bytes, start);
    u32(bytes, 0x07064b50), u32(bytes, 0);
    append_number<std::uint64_t>(bytes, record);
    u32(bytes, 1);
  }
  u32(bytes, 0x06054b50);
  u16(bytes, 0), u16(bytes, 0);
  const std::size_t count = options.zip64 ? 0xffff : entries.size();
  u16(bytes, count), u16(bytes, count);
  u32(bytes, options.zip64 ? elsewhere : directory.size());
  u32(bytes, options.zip64 ? elsewhere : start);
  u16(bytes, 0);
  return bytes;
}

// Where the directory's record of one entry starts, for tests that damage it.
inline std::size_t directory_record(const std::string& zip, std::size_t entry) {
  std::size_t at = zip.find("PK\1\2");
  for (; entry > 0; --entry) at = zip.find("PK\1\2", at + 4);
  return at;
}

}  // namespace metala::harness
