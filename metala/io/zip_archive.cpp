#include "metala/io/zip_archive.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "metala/base/error.h"
#include "metala/io/byte_reader.h"
#include "metala/io/printable.h"

namespace metala {
namespace {

constexpr std::uint32_t local_signature = 0x04034b50;
constexpr std::uint32_t central_signature = 0x02014b50;
constexpr std::uint32_t end_signature = 0x06054b50;
constexpr std::uint32_t end64_signature = 0x06064b50;
constexpr std::uint32_t locator64_signature = 0x07064b50;
constexpr std::size_t local_bytes = 30, central_bytes = 46, end_bytes = 22, locator64_bytes = 20;
constexpr std::size_t longest_comment = 0xffff;
// What a field holds whose value stands in the zip64 fields.
constexpr std::uint32_t see_zip64 = 0xffffffff;
constexpr std::uint16_t short_see_zip64 = 0xffff;

struct Directory {
  std::uint64_t offset = 0, bytes = 0, entries = 0;
};

struct Entry {
  std::string name;
  std::uint64_t header = 0;  // offset of the local header
  std::uint64_t bytes = 0;
};

// The end record is last but for a comment whose length it gives.
std::size_t find_end(std::span<const std::byte> bytes, const std::string& path) {
  ByteReader reader(bytes, path);
  const std::size_t comments = std::min(longest_comment, bytes.size() - end_bytes);
  for (std::size_t comment = 0; comment <= comments; ++comment) {
    const std::size_t at = bytes.size() - end_bytes - comment;
    reader.seek(at);
    if (reader.number<std::uint32_t>() != end_signature) continue;
    reader.seek(at + end_bytes - 2);
    if (reader.number<std::uint16_t>() == comment) return at;
  }
  fail("{}: has no zip directory; the file is truncated or not a zip file", path);
}

Directory read_directory64(ByteReader& reader, std::size_t end) {
  const std::string& path = reader.source();
  require(end >= locator64_bytes, "{}: its zip64 locator is missing", path);
  reader.seek(end - locator64_bytes);
  require(reader.number<std::uint32_t>() == locator64_signature, "{}: its zip64 locator is missing",
          path);
  require(reader.number<std::uint32_t>() == 0, "{}: is one of several disks", path);
  reader.seek(reader.number<std::uint64_t>());
  require(reader.number<std::uint32_t>() == end64_signature,
          "{}: its zip64 locator does not lead to a zip64 record", path);
  reader.take(12);  // size of the record, versions
  require(reader.number<std::uint32_t>() == 0 && reader.number<std::uint32_t>() == 0,
          "{}: is one of several disks", path);
  Directory directory;
  directory.entries = reader.number<std::uint64_t>();
  require(reader.number<std::uint64_t>() == directory.entries, "{}: is one of several disks", path);
  directory.bytes = reader.number<std::uint64_t>();
  directory.offset = reader.number<std::uint64_t>();
  return directory;
}

Directory read_directory(std::span<const std::byte> bytes, const std::string& path) {
  require(bytes.size() >= end_bytes, "{}: {} bytes are too few for a zip file", path, bytes.size());
  const std::size_t end = find_end(bytes, path);
  ByteReader reader(bytes, path);
  reader.seek(end + 4);
  const auto disk = reader.number<std::uint16_t>();
  const auto first_disk = reader.number<std::uint16_t>();
  const auto here = reader.number<std::uint16_t>();
  Directory directory;
  directory.entries = reader.number<std::uint16_t>();
  directory.bytes = reader.number<std::uint32_t>();
  directory.offset = reader.number<std::uint32_t>();
  if (directory.entries == short_see_zip64 || directory.bytes == see_zip64 ||
      directory.offset == see_zip64) {
    directory = read_directory64(reader, end);
  } else {
    require(disk == 0 && first_disk == 0 && here == directory.entries,
            "{}: is one of several disks", path);
  }
  require(directory.offset <= end && directory.bytes <= end - directory.offset,
          "{}: its directory of {} bytes at {} lies beyond its end", path, directory.bytes,
          directory.offset);
  require(directory.entries <= directory.bytes / central_bytes,
          "{}: its directory of {} bytes cannot hold {} entries", path, directory.bytes,
          directory.entries);
  return directory;
}

void check_name(std::string_view name, const std::string& path) {
  bool good = !name.empty() && name.front() != '/' &&
              name.find_first_of(std::string_view("\\\0", 2)) == std::string_view::npos;
  for (std::size_t begin = 0; good && begin <= name.size();) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    good = name.substr(begin, end - begin) != "..";
    begin = end + 1;
  }
  require(good, "{}: entry \"{}\" is not named by a relative path", path, printable(name));
}

// Replaces those of the three fields that stand in the zip64 field of `extra`.
void read_zip64(std::span<const std::byte> extra, const std::string& what, std::uint64_t& size,
                std::uint64_t& stored, std::uint64_t& header) {
  if (size != see_zip64 && stored != see_zip64 && header != see_zip64) return;
  ByteReader reader(extra, what + ": extra field");
  while (reader.remaining() > 0) {
    const auto id = reader.number<std::uint16_t>();
    const auto length = reader.number<std::uint16_t>();
    ByteReader field(reader.take(length), what + ": zip64 field");
    if (id != 1) continue;
    for (std::uint64_t* value : {&size, &stored, &header}) {
      if (*value == see_zip64) *value = field.number<std::uint64_t>();
    }
    return;
  }
  fail("{}: its zip64 field is missing", what);
}

Entry read_entry(ByteReader& reader, const std::string& path) {
  require(reader.number<std::uint32_t>() == central_signature,
          "{}: its directory is damaged at byte {}", path, reader.offset() - 4);
  reader.take(4);  // versions
  const auto flags = reader.number<std::uint16_t>();
  const auto method = reader.number<std::uint16_t>();
  reader.take(8);  // time, date, checksum
  std::uint64_t stored = reader.number<std::uint32_t>();
  std::uint64_t size = reader.number<std::uint32_t>();
  const auto name_bytes = reader.number<std::uint16_t>();
  const auto extra_bytes = reader.number<std::uint16_t>();
  const auto comment_bytes = reader.number<std::uint16_t>();
  const auto disk = reader.number<std::uint16_t>();
  reader.take(6);  // attributes
  Entry entry;
  entry.header = reader.number<std::uint32_t>();
  entry.name = reader.text(name_bytes);
  check_name(entry.name, path);
  const std::string what = path + ": " + printable(entry.name);
  read_zip64(reader.take(extra_bytes), what, size, stored, entry.header);
  reader.take(comment_bytes);
  require((flags & 1) == 0, "{}: is encrypted", what);
  require(method == 0, "{}: is compressed (method {}); entries must be stored as they are", what,
          method);
  require(stored == size, "{}: stores {} bytes as {}", what, size, stored);
  require(disk == 0 || disk == short_see_zip64, "{}: lies on another disk", what);
  entry.bytes = size;
  return entry;
}

}  // namespace

ZipArchive ZipArchive::open(const std::string& path) {
  return read(MappedFile::open(path));
}

ZipArchive ZipArchive::read(MappedFile file) {
  ZipArchive archive;
  archive.file_ = std::move(file);
  const std::string& path = archive.path();
  const auto bytes = archive.file_.bytes();
  const Directory directory = read_directory(bytes, path);
  ByteReader listing(bytes.subspan(directory.offset, directory.bytes), path + ": directory");
  std::vector<Entry> entries;
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    entries.push_back(read_entry(listing, path));
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.header < b.header; });

  // Local headers and contents lie before the directory, each entry behind the one before it.
  ByteReader reader(bytes.first(directory.offset), path);
  for (const Entry& entry : entries) {
    require(entry.header >= reader.offset(), "{}: {} overlaps the entry before it", path,
            printable(entry.name));
    reader.seek(entry.header);
    require(reader.number<std::uint32_t>() == local_signature, "{}: {} has no header at byte {}",
            path, printable(entry.name), entry.header);
    reader.seek(entry.header + local_bytes - 4);
    const auto name_bytes = reader.number<std::uint16_t>();
    const auto extra_bytes = reader.number<std::uint16_t>();
    const auto local_name = reader.text(name_bytes);
    require(local_name == entry.name, "{}: the header of {} names \"{}\"", path,
            printable(entry.name), printable(local_name));
    reader.take(extra_bytes);
    const bool fresh = archive.entries_.emplace(entry.name, reader.take(entry.bytes)).second;
    require(fresh, "{}: holds {} twice", path, printable(entry.name));
  }
  return archive;
}

bool ZipArchive::recognizes(std::span<const std::byte> bytes) {
  return bytes.size() >= 4 && ByteReader(bytes, "").number<std::uint32_t>() == local_signature;
}

std::span<const std::byte> ZipArchive::bytes(const std::string& name) const {
  const auto found = entries_.find(name);
  require(found != entries_.end(), "{}: has no entry {}", path(), name);
  return found->second;
}

}  // namespace metala
