#include "metala/io/zip_writer.h"

#include <cassert>

#include "metala/io/checksum.h"

namespace metala {
namespace {

constexpr std::uint16_t version = 45;  // the first with zip64
constexpr std::uint16_t names_are_utf8 = 1 << 11;
constexpr std::uint16_t first_day = (1 << 5) | 1;  // 1980-01-01: equal models make equal files
constexpr std::uint32_t see_zip64 = 0xffffffff;
constexpr std::uint16_t short_see_zip64 = 0xffff;
constexpr std::uint16_t zip64_id = 1;
constexpr std::uint16_t padding_id = 0x4246;  // "FB", as PyTorch pads

template <class... Numbers>
void put(std::string& bytes, Numbers... numbers) {
  (bytes.append(reinterpret_cast<const char*>(&numbers), sizeof numbers), ...);
}

}  // namespace

void ZipWriter::write(const std::string& bytes) {
  out_.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  at_ += bytes.size();
}

void ZipWriter::add(const std::string& name, std::span<const std::byte> contents) {
  assert(name.size() < short_see_zip64);
  const Entry entry{name, at_, contents.size(), crc32(contents)};
  constexpr std::uint16_t zip64_bytes = 16;
  const std::uint64_t unpadded = at_ + 30 + name.size() + 4 + zip64_bytes + 4;
  const auto padding = static_cast<std::uint16_t>((alignment - unpadded % alignment) % alignment);
  std::string header;
  put(header, std::uint32_t{0x04034b50}, version, names_are_utf8, std::uint16_t{0});
  put(header, std::uint16_t{0}, first_day, entry.checksum, see_zip64, see_zip64);
  put(header, static_cast<std::uint16_t>(name.size()));
  put(header, static_cast<std::uint16_t>(4 + zip64_bytes + 4 + padding));
  header += name;
  put(header, zip64_id, zip64_bytes, entry.bytes, entry.bytes);
  put(header, padding_id, padding);
  header.append(padding, 'Z');
  write(header);
  out_.write(reinterpret_cast<const char*>(contents.data()),
             static_cast<std::streamsize>(contents.size()));
  at_ += contents.size();
  entries_.push_back(entry);
}

void ZipWriter::add(const std::string& name, const std::string& contents) {
  add(name, std::as_bytes(std::span(contents)));
}

void ZipWriter::finish() {
  std::string directory;
  for (const Entry& entry : entries_) {
    put(directory, std::uint32_t{0x02014b50}, version, version, names_are_utf8, std::uint16_t{0});
    put(directory, std::uint16_t{0}, first_day, entry.checksum, see_zip64, see_zip64);
    put(directory, static_cast<std::uint16_t>(entry.name.size()), std::uint16_t{28});
    put(directory, std::uint16_t{0}, std::uint16_t{0}, std::uint16_t{0}, std::uint32_t{0});
    put(directory, see_zip64);
    directory += entry.name;
    put(directory, zip64_id, std::uint16_t{24}, entry.bytes, entry.bytes, entry.header);
  }
  const std::uint64_t start = at_;
  const std::uint64_t record = start + directory.size();
  const std::uint64_t count = entries_.size();
  const std::uint64_t size = directory.size();
  put(directory, std::uint32_t{0x06064b50}, std::uint64_t{44}, version, version);
  put(directory, std::uint32_t{0}, std::uint32_t{0}, count, count, size, start);
  put(directory, std::uint32_t{0x07064b50}, std::uint32_t{0}, record, std::uint32_t{1});
  put(directory, std::uint32_t{0x06054b50}, std::uint16_t{0}, std::uint16_t{0}, short_see_zip64,
      short_see_zip64, see_zip64, see_zip64, std::uint16_t{0});
  write(directory);
}

}  // namespace metala
