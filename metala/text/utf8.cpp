#include "metala/text/utf8.h"

#include <fmt/format.h>

#include <algorithm>

namespace metala {
namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";  // U+FFFD

enum class Status { whole, unfinished, invalid };
struct Character {
  Status status;
  std::size_t bytes;  // of the character, or of the maximal invalid or unfinished part
};

// The well-formed sequences of Unicode's table 3-7: the second byte's range depends on the first.
Character first_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {Status::whole, 1};
  std::size_t length = 0;
  unsigned low = 0x80;
  unsigned high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {Status::invalid, 1};
  }
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Status::unfinished, i};
    if (byte(i) < low || byte(i) > high) return {Status::invalid, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Status::whole, length};
}

// Moves what can be shown from `bytes` to the result; leaves an unfinished end.
std::string take_complete(std::string& bytes) {
  std::string out;
  std::size_t at = 0;
  while (at < bytes.size()) {
    const Character c = first_character(std::string_view(bytes).substr(at));
    if (c.status == Status::unfinished) break;
    if (c.status == Status::whole) {
      out.append(bytes, at, c.bytes);
    } else {
      out += replacement;
    }
    at += c.bytes;
  }
  bytes.erase(0, at);
  return out;
}

}  // namespace

std::size_t valid_utf8_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const Character c = first_character(text.substr(at));
    if (c.status != Status::whole) break;
    at += c.bytes;
  }
  return at;
}

std::string replace_invalid_utf8(std::string_view text) {
  Utf8Stream stream;
  std::string out = stream.push(text);
  return out + stream.flush();
}

namespace {

template <class Spell>
std::string with_invalid_bytes(std::string_view text, Spell spell) {
  std::string out;
  while (!text.empty()) {
    const std::size_t valid = valid_utf8_prefix(text);
    out += text.substr(0, valid);
    text.remove_prefix(valid);
    if (text.empty()) break;
    out += spell(static_cast<unsigned char>(text[0]));
    text.remove_prefix(1);
  }
  return out;
}

}  // namespace

std::string replace_each_invalid_byte(std::string_view text) {
  return with_invalid_bytes(text, [](unsigned char) { return replacement; });
}

std::string spell_invalid_utf8(std::string_view text) {
  return with_invalid_bytes(text, [](unsigned char b) { return fmt::format("<0x{:02X}>", b); });
}

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  return take_complete(pending_);
}

std::string Utf8Stream::flush() {
  const bool unfinished = !pending_.empty();
  pending_.clear();
  return unfinished ? std::string(replacement) : std::string();
}

}  // namespace metala
