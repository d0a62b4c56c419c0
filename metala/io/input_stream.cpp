#include "metala/io/input_stream.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <vector>

#include "metala/base/error.h"

namespace metala {
namespace {

// The file itself, buffered, with a look at what comes.
class RawFile {
 public:
  explicit RawFile(const std::string& path) : path_(path) {
    const bool standard = path == InputStream::standard_input;
    if (standard) path_ = "standard input";
    fd_ = standard ? dup(STDIN_FILENO) : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    require(fd_ >= 0, "{}: cannot open: {}", path_, std::strerror(errno));
    if (!standard) posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
  }
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;
  ~RawFile() { close(fd_); }

  const std::string& path() const { return path_; }
  std::uint64_t consumed() const { return read_ - rest().size(); }

  // What is buffered and not taken yet; at the end of the file empty.
  std::string_view rest() const { return {buffer_.data() + begin_, end_ - begin_}; }
  std::string_view more() {
    if (begin_ == end_) fill();
    return rest();
  }
  void take(std::size_t count) { begin_ += count; }

  // Whether the file goes on with these bytes, which must fit the buffer.
  bool goes_on_with(std::string_view bytes) {
    while (end_ - begin_ < bytes.size()) {
      if (!fill()) break;
    }
    return rest().starts_with(bytes);
  }

  std::size_t read(char* into, std::size_t most) {
    const std::size_t count = std::min(most, more().size());
    std::memcpy(into, rest().data(), count);
    take(count);
    return count;
  }

 private:
  bool fill() {
    if (begin_ == end_) begin_ = end_ = 0;
    ssize_t got = 0;
    do {
      got = ::read(fd_, buffer_.data() + end_, buffer_.size() - end_);
    } while (got < 0 && errno == EINTR);
    require(got >= 0, "{}: cannot read: {}", path_, std::strerror(errno));
    end_ += static_cast<std::size_t>(got);
    read_ += static_cast<std::uint64_t>(got);
    return got > 0;
  }

  std::string path_;
  int fd_ = -1;
  std::vector<char> buffer_ = std::vector<char>(std::size_t{1} << 18);
  std::size_t begin_ = 0, end_ = 0;
  std::uint64_t read_ = 0;
};

class PlainStream : public InputStream {
 public:
  explicit PlainStream(std::unique_ptr<RawFile> file) : file_(std::move(file)) {}
  std::size_t read(char* into, std::size_t most) override {
    std::size_t done = 0;
    while (done < most) {
      const std::size_t got = file_->read(into + done, most - done);
      if (got == 0) break;
      done += got;
    }
    return done;
  }
  std::uint64_t consumed() const override { return file_->consumed(); }

 private:
  std::unique_ptr<RawFile> file_;
};

class GzipStream : public InputStream {
 public:
  explicit GzipStream(std::unique_ptr<RawFile> file) : file_(std::move(file)) {
    constexpr int gzip_of_any_window = 16 + MAX_WBITS;
    require(inflateInit2(&inflater_, gzip_of_any_window) == Z_OK, "{}: zlib cannot start",
            file_->path());
  }
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;
  ~GzipStream() override { inflateEnd(&inflater_); }

  std::size_t read(char* into, std::size_t most) override {
    constexpr std::size_t largest = std::size_t{1} << 30;  // zlib counts in 32 bits
    std::size_t done = 0;
    while (done < most) {
      const std::string_view in = file_->more();
      if (in.empty()) {
        require(!within_member_, "{}: the gzip data is cut short", file_->path());
        break;
      }
      const std::size_t room = std::min(most - done, largest);
      inflater_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
      inflater_.avail_in = static_cast<uInt>(in.size());
      inflater_.next_out = reinterpret_cast<Bytef*>(into + done);
      inflater_.avail_out = static_cast<uInt>(room);
      within_member_ = true;
      const int status = inflate(&inflater_, Z_NO_FLUSH);
      require(status == Z_OK || status == Z_STREAM_END || status == Z_BUF_ERROR,
              "{}: the gzip data is damaged at byte {}", file_->path(), file_->consumed());
      file_->take(in.size() - inflater_.avail_in);
      done += room - inflater_.avail_out;
      if (status == Z_STREAM_END) {
        within_member_ = false;
        inflateReset(&inflater_);
      }
    }
    return done;
  }
  std::uint64_t consumed() const override { return file_->consumed(); }

 private:
  std::unique_ptr<RawFile> file_;
  z_stream inflater_{};
  bool within_member_ = false;
};

class ZstdStream : public InputStream {
 public:
  explicit ZstdStream(std::unique_ptr<RawFile> file)
      : file_(std::move(file)), decoder_(ZSTD_createDStream(), &ZSTD_freeDStream) {
    require(decoder_ != nullptr, "{}: zstd cannot start", file_->path());
  }

  std::size_t read(char* into, std::size_t most) override {
    ZSTD_outBuffer out = {into, most, 0};
    while (out.pos < out.size) {
      const std::string_view rest = file_->more();
      ZSTD_inBuffer in = {rest.data(), rest.size(), 0};
      const std::size_t before = out.pos;
      const std::size_t left = ZSTD_decompressStream(decoder_.get(), &out, &in);
      require(ZSTD_isError(left) == 0, "{}: the zstd data at byte {}: {}", file_->path(),
              file_->consumed(), ZSTD_getErrorName(left));
      file_->take(in.pos);
      if (left == 0) within_frame_ = false;
      if (in.pos > 0 && left > 0) within_frame_ = true;
      if (rest.empty() && out.pos == before) {
        require(!within_frame_, "{}: the zstd data is cut short", file_->path());
        break;
      }
    }
    return out.pos;
  }
  std::uint64_t consumed() const override { return file_->consumed(); }

 private:
  std::unique_ptr<RawFile> file_;
  std::unique_ptr<ZSTD_DStream, decltype(&ZSTD_freeDStream)> decoder_;
  bool within_frame_ = false;
};

}  // namespace

std::unique_ptr<InputStream> InputStream::open(const std::string& path) {
  auto file = std::make_unique<RawFile>(path);
  if (file->goes_on_with("\x1f\x8b")) return std::make_unique<GzipStream>(std::move(file));
  if (file->goes_on_with("\x28\xb5\x2f\xfd")) return std::make_unique<ZstdStream>(std::move(file));
  return std::make_unique<PlainStream>(std::move(file));
}

}  // namespace metala
