#include "metala/data/token_writer.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>

#include "metala/base/error.h"
#include "metala/io/file.h"

namespace metala {
namespace {

namespace fs = std::filesystem;

template <class T>
void encode(std::span<const std::int32_t> ids, std::string& bytes) {
  bytes.resize(ids.size() * sizeof(T));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    require(std::in_range<T>(ids[i]), "token id {} does not fit the dataset's type", ids[i]);
    const T value = static_cast<T>(ids[i]);
    std::memcpy(bytes.data() + i * sizeof value, &value, sizeof value);
  }
}

template <class T>
void put(std::ostream& out, T value) {
  out.write(reinterpret_cast<const char*>(&value), sizeof value);
}

// Gives a file that a `finish` which was cut short had renamed its partial name back.
void take_back(const std::string& path, const std::string& published) {
  std::error_code failure;
  if (!fs::exists(path) && fs::exists(published)) fs::rename(published, path, failure);
}

// Opens a partial file cut to `bytes`.
std::ofstream opened(const std::string& path, std::uint64_t bytes) {
  if (bytes > 0) {
    std::error_code failure;
    const auto size = fs::file_size(path, failure);
    require(!failure && size >= bytes, "{}: has {} bytes of the {} that were written", path,
            failure ? 0 : size, bytes);
    fs::resize_file(path, bytes, failure);
    require(!failure, "{}: cannot cut: {}", path, failure.message());
  }
  const auto mode = bytes > 0 ? std::ios::app : std::ios::trunc;
  std::ofstream out(path, std::ios::binary | mode);
  require(out.good(), "{}: cannot write: {}", path, std::strerror(errno));
  return out;
}

}  // namespace

TokenType token_type_for(std::int64_t vocabulary) {
  constexpr std::int64_t u16_vocabulary = 65500;  // GPT-NeoX's border
  return vocabulary < u16_vocabulary ? TokenType::u16 : TokenType::i32;
}

TokenWriter::TokenWriter(const std::string& prefix, TokenType type, TokenPosition from)
    : prefix_(prefix), type_(type), position_(from) {
  if (from.tokens > 0) take_back(bin_path(), prefix_ + ".bin");
  bin_ = opened(bin_path(), static_cast<std::uint64_t>(from.tokens * size_of(type)));
  lengths_ = opened(lengths_path(), static_cast<std::uint64_t>(from.sequences) * 4);
}

void TokenWriter::add(std::span<const std::int32_t> sequence, bool ends_document) {
  require(sequence.size() <= std::numeric_limits<std::int32_t>::max(),
          "{}: a document has {} tokens; at most 2^31 - 1 fit the index", prefix_, sequence.size());
  switch (type_) {
    case TokenType::u8:
      encode<std::uint8_t>(sequence, encoded_);
      break;
    case TokenType::i8:
      encode<std::int8_t>(sequence, encoded_);
      break;
    case TokenType::i16:
      encode<std::int16_t>(sequence, encoded_);
      break;
    case TokenType::u16:
      encode<std::uint16_t>(sequence, encoded_);
      break;
    case TokenType::i32:
      encode<std::int32_t>(sequence, encoded_);
      break;
    case TokenType::i64:
      encode<std::int64_t>(sequence, encoded_);
      break;
  }
  const auto length = static_cast<std::int32_t>(sequence.size());
  errno = 0;
  bin_.write(encoded_.data(), static_cast<std::streamsize>(encoded_.size()));
  put(lengths_, ends_document ? length : ~length);
  require_written(bin_, bin_path());
  require_written(lengths_, lengths_path());
  ++position_.sequences;
  position_.tokens += length;
}

TokenPosition TokenWriter::sync() {
  errno = 0;
  bin_.flush();
  lengths_.flush();
  require_written(bin_, bin_path());
  require_written(lengths_, lengths_path());
  sync_file(bin_path());
  sync_file(lengths_path());
  return position_;
}

void TokenWriter::finish(TokenWriter* labels) {
  for (TokenWriter* writer : {labels, this}) {
    if (writer != nullptr) writer->seal();
  }
  if (labels != nullptr) labels->publish();
  publish();
  std::error_code ignored;
  if (labels != nullptr) fs::remove(labels->lengths_path(), ignored);
  fs::remove(lengths_path(), ignored);
}

void TokenWriter::publish() const {
  const auto rename = [](const std::string& from, const std::string& to) {
    std::error_code failure;
    fs::rename(from, to, failure);
    require(!failure, "{}: cannot rename: {}", from, failure.message());
  };
  std::error_code ignored;
  fs::remove(prefix_ + ".idx", ignored);  // of a dataset that this one replaces
  rename(bin_path(), prefix_ + ".bin");
  rename(index_path(), prefix_ + ".idx");
  const fs::path parent = fs::path(prefix_).parent_path();
  sync_folder(parent.empty() ? "." : parent.string());
}

// Writes the index under its partial name.
void TokenWriter::seal() {
  sync();
  bin_.close();
  lengths_.close();
  const MappedFile lengths = MappedFile::open(lengths_path());
  const auto n = static_cast<std::int64_t>(lengths.bytes().size() / 4);
  const auto entry = [&](std::int64_t i) {
    std::int32_t value = 0;
    std::memcpy(&value, lengths.bytes().data() + 4 * i, 4);
    return value;
  };
  const auto length = [&](std::int64_t i) { return entry(i) < 0 ? ~entry(i) : entry(i); };
  std::uint64_t borders = 1;
  for (std::int64_t i = 0; i < n; ++i) borders += entry(i) >= 0 ? 1 : 0;
  write_file_atomically(index_path(), [&](std::ostream& out) {
    out.write("MMIDIDX\0\0", 9);
    put(out, std::uint64_t{1});
    put(out, static_cast<std::uint8_t>(type_));
    put(out, static_cast<std::uint64_t>(n));
    put(out, borders);
    for (std::int64_t i = 0; i < n; ++i) put(out, length(i));
    std::int64_t at = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      put(out, at);
      at += length(i) * size_of(type_);
    }
    put(out, std::int64_t{0});
    for (std::int64_t i = 0; i < n; ++i) {
      if (entry(i) >= 0) put(out, i + 1);
    }
  });
}

void TokenWriter::discard() {
  bin_.close();
  lengths_.close();
  std::error_code ignored;
  fs::remove(bin_path(), ignored);
  fs::remove(lengths_path(), ignored);
  fs::remove(index_path(), ignored);
}

void TokenWriter::require_written(std::ostream& out, const std::string& path) {
  require(out.good(), "{}: write failed: {}", path,
          errno == 0 ? "the disk is full?" : std::strerror(errno));
}

}  // namespace metala
