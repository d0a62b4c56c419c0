#include "metala/io/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "metala/base/error.h"

namespace metala {
namespace {

namespace fs = std::filesystem;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string reason() {
  return std::strerror(errno);
}

std::size_t regular_size(const std::string& path, const Descriptor& file) {
  struct stat status {};
  require(fstat(file.get(), &status) == 0, "{}: {}", path, reason());
  require(S_ISREG(status.st_mode), "{}: is not a regular file", path);
  return static_cast<std::size_t>(status.st_size);
}

// The file that a path names behind links, also where it is not there yet.
std::string behind_links(const std::string& path) {
  constexpr int most = 40;  // as Linux follows
  fs::path at = path;
  std::error_code failure;
  for (int links = 0; fs::is_symlink(fs::symlink_status(at, failure)); ++links) {
    require(links < most, "{}: cannot write: more than {} links in a row", path, most);
    const fs::path next = fs::read_symlink(at, failure);
    require(!failure, "{}: cannot write: {}", path, failure.message());
    at = at.parent_path() / next;
  }
  return at.string();
}

}  // namespace

MappedFile MappedFile::open(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  require(file.get() >= 0, "{}: cannot open: {}", path, reason());
  MappedFile mapped;
  mapped.path_ = path;
  mapped.size_ = regular_size(path, file);
  if (mapped.size_ == 0) return mapped;
  void* data = mmap(nullptr, mapped.size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  require(data != MAP_FAILED, "{}: cannot map {} bytes: {}", path, mapped.size_, reason());
  mapped.data_ = static_cast<const std::byte*>(data);
  mapped.owner_ = std::shared_ptr<void>(data, [size = mapped.size_](void* p) { munmap(p, size); });
  return mapped;
}

std::string read_file(const std::string& path, std::size_t limit) {
  const MappedFile file = MappedFile::open(path);
  const auto bytes = file.bytes();
  require(bytes.size() <= limit, "{}: has {} bytes; at most {} are read", path, bytes.size(),
          limit);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void write_file_atomically(const std::string& path,
                           const std::function<void(std::ostream&)>& write) {
  // A rename would put a file in a device's place.
  std::error_code absent;
  const fs::file_status before = fs::status(path, absent);
  require(!fs::exists(before) || fs::is_regular_file(before),
          "{}: cannot write: it is not a regular file", path);
  const std::string target = behind_links(path);
  const std::string aside = fmt::format("{}.{}.tmp", target, getpid());
  try {
    std::ofstream out(aside, std::ios::binary | std::ios::trunc);
    require(out.good(), "{}: cannot write: {}", path, reason());
    errno = 0;
    write(out);
    out.flush();
    require(out.good(), "{}: write failed: {}", path, errno == 0 ? "the disk is full?" : reason());
    out.close();
    sync_file(aside);
    require(std::rename(aside.c_str(), target.c_str()) == 0, "{}: cannot rename into place: {}",
            path, reason());
  } catch (...) {
    std::error_code ignored;
    fs::remove(aside, ignored);
    throw;
  }
  const fs::path parent = fs::path(target).parent_path();
  sync_folder(parent.empty() ? "." : parent.string());
}

void write_file_atomically(const std::string& path, const std::string& text) {
  write_file_atomically(path, [&](std::ostream& out) {
    out.write(text.data(), static_cast<std::streamsize>(text.size()));
  });
}

void sync_file(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  require(file.get() >= 0 && fsync(file.get()) == 0, "{}: sync failed: {}", path, reason());
}

void sync_folder(const std::string& path) {
  const Descriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  require(folder.get() >= 0 && fsync(folder.get()) == 0, "{}: sync failed: {}", path, reason());
}

}  // namespace metala
