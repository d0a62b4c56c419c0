// Files: mapped reading, bounded reading, and writing that leaves either the old file or the new.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <ostream>
#include <span>
#include <string>

namespace metala {

// A read-only mapping of a whole file. Copies share it; tensors that view it keep it alive through
// `owner`. Throws Error with the path and the system's reason.
class MappedFile {
 public:
  static MappedFile open(const std::string& path);
  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::shared_ptr<void>& owner() const { return owner_; }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::shared_ptr<void> owner_;
};

// The whole file; Error when it is larger than `limit`.
std::string read_file(const std::string& path, std::size_t limit);

// Writes beside `path`, syncs, renames over it, syncs the folder; where `path` is a link, beside
// and over the file that it names. When anything fails (the disk is full, `write` throws) the old
// file is untouched, nothing new is left behind, and Error says why.
void write_file_atomically(const std::string& path,
                           const std::function<void(std::ostream&)>& write);
void write_file_atomically(const std::string& path, const std::string& text);

// Makes what was written to a file durable.
void sync_file(const std::string& path);

// Makes the rename of `path`'s entries durable.
void sync_folder(const std::string& path);

}  // namespace metala
