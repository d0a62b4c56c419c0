// ZipArchive: the stored entries of a zip file as ranges of its map. Nothing is decompressed.
//
// Sizes and places come from the central directory, zip64 fields included; every local header must
// agree with it on the name. Refused when opened: compressed or encrypted entries, several disks,
// entries that overlap each other or the directory, names given twice, absolute or with "..".
// Checksums are not compared: that would read every weight.
// Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "metala/io/file.h"

namespace metala {

class ZipArchive {
 public:
  // Throws Error naming the file and, where there is one, the entry.
  static ZipArchive open(const std::string& path);
  static ZipArchive read(MappedFile file);

  // Whether these bytes start as a zip file with entries does.
  static bool recognizes(std::span<const std::byte> bytes);

  const std::string& path() const { return file_.path(); }
  const MappedFile& file() const { return file_; }
  // Contents by name; valid as long as file().owner().
  const std::map<std::string, std::span<const std::byte>>& entries() const { return entries_; }
  bool contains(const std::string& name) const { return entries_.contains(name); }
  std::span<const std::byte> bytes(const std::string& name) const;

 private:
  MappedFile file_;
  std::map<std::string, std::span<const std::byte>> entries_;
};

}  // namespace metala
