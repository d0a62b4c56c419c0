#include "metala/train/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <optional>

#include "metala/base/error.h"
#include "metala/io/file.h"

namespace metala {
namespace {

// Little-endian bytes of a number.
template <class T>
std::string raw(T value) {
  const auto bytes = std::bit_cast<std::array<char, sizeof(T)>>(value);
  return {bytes.data(), bytes.size()};
}

std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>((value & 0x7f) | 0x80));
  out.push_back(static_cast<char>(value));
  return out;
}

// A field that holds bytes: strings and nested messages.
std::string bytes_field(int number, std::string_view value) {
  return static_cast<char>(number << 3 | 2) + varint(value.size()) + std::string(value);
}

std::string wall_time_field(double seconds) {
  return '\x09' + raw(seconds);
}

std::uint32_t masked_crc(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static const auto table = [] {
    std::array<std::uint32_t, 256> t{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1) != 0 ? 0x82f63b78u : 0);
      t[i] = c;
    }
    return t;
  }();
  std::uint32_t c = 0xffffffffu;
  for (const char byte : bytes) {
    c = (c >> 8) ^ table[(c ^ static_cast<unsigned char>(byte)) & 0xff];
  }
  return ~c;
}

std::string tensorboard_record(std::string_view event) {
  const std::string length = raw(static_cast<std::uint64_t>(event.size()));
  return length + raw(masked_crc(length)) + std::string(event) + raw(masked_crc(event));
}

std::string version_event(double wall_time) {
  return wall_time_field(wall_time) + bytes_field(3, "brain.Event:2");
}

std::string scalar_event(double wall_time, std::int64_t step, std::string_view tag, float value) {
  const std::string entry = bytes_field(1, tag) + '\x15' + raw(value);
  return wall_time_field(wall_time) + '\x10' + varint(static_cast<std::uint64_t>(step)) +
         bytes_field(5, bytes_field(1, entry));
}

namespace {

// The event at the front of `bytes`, which moves behind its record; nothing where no whole record
// with right checksums is.
std::optional<std::string_view> take_event(std::string_view& bytes) {
  constexpr std::size_t head = sizeof(std::uint64_t), crc = sizeof(std::uint32_t);
  if (bytes.size() < head + crc) return std::nullopt;
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), head);
  if (length > bytes.size() - head - crc || bytes.size() - head - crc - length < crc) {
    return std::nullopt;
  }
  const std::string_view event = bytes.substr(head + crc, length);
  if (bytes.substr(0, head + crc + length + crc) != tensorboard_record(event)) return std::nullopt;
  bytes.remove_prefix(head + crc + length + crc);
  return event;
}

std::optional<std::uint64_t> take_varint(std::string_view& bytes) {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.front());
    bytes.remove_prefix(1);
    value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) return value;
  }
  return std::nullopt;
}

// An event's step, field 2; 0 where it has none, as protocol buffers mean it.
std::int64_t step_of_event(std::string_view event) {
  while (const auto tag = take_varint(event)) {
    std::uint64_t skipped = 0;
    switch (*tag & 7) {
      case 0: {
        const auto value = take_varint(event);
        if (*tag >> 3 == 2 && value) return static_cast<std::int64_t>(*value);
        break;
      }
      case 1:
        skipped = 8;
        break;
      case 2:
        skipped = take_varint(event).value_or(event.size());
        break;
      case 5:
        skipped = 4;
        break;
      default:
        return 0;
    }
    event.remove_prefix(std::min<std::uint64_t>(skipped, event.size()));
  }
  return 0;
}

}  // namespace

void keep_tensorboard_events_until(const std::string& folder, std::int64_t step) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (!entry.path().filename().string().starts_with("events.out.tfevents.")) continue;
    const std::string path = entry.path().string();
    std::string kept;
    bool changed = false;
    {
      const MappedFile file = MappedFile::open(path);
      std::string_view rest(reinterpret_cast<const char*>(file.bytes().data()),
                            file.bytes().size());
      while (const auto event = take_event(rest)) {
        if (kept.empty() && event->find("brain.Event:") == std::string_view::npos) break;
        if (step_of_event(*event) <= step) {
          kept += tensorboard_record(*event);
        } else {
          changed = true;
        }
      }
      changed = changed || !rest.empty();
    }
    if (changed && !kept.empty()) write_file_atomically(path, kept);
  }
}

TensorBoardWriter::TensorBoardWriter(const std::string& folder) {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  path_ = fmt::format("{}/events.out.tfevents.{:010}.{}.{}", folder,
                      static_cast<std::int64_t>(now()), host.data(), getpid());
  out_.open(path_, std::ios::binary | std::ios::app);
  require(out_.good(), "{}: cannot write", path_);
  out_ << tensorboard_record(version_event(now()));
}

void TensorBoardWriter::scalar(std::int64_t step, std::string_view tag, double value) {
  out_ << tensorboard_record(scalar_event(now(), step, tag, static_cast<float>(value)));
}

void TensorBoardWriter::flush() {
  out_.flush();
  require(out_.good(), "{}: write failed; is the disk full?", path_);
}

}  // namespace metala
