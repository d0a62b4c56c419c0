#include "metala/text/byte_characters.h"

#include <array>

#include "metala/text/unicode.h"

namespace metala::byte_characters {
namespace {

constexpr char32_t first_stand_in = 0x100;
constexpr int stand_ins = 68;

struct Tables {
  std::array<std::string, 256> of_byte;
  std::array<std::int16_t, first_stand_in + stand_ins> byte_of;  // by code point; -1: no byte

  Tables() {
    byte_of.fill(-1);
    char32_t next = first_stand_in;
    for (int byte = 0; byte < 256; ++byte) {
      const bool itself = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      const char32_t c = itself ? static_cast<char32_t>(byte) : next++;
      unicode::append(of_byte[static_cast<std::size_t>(byte)], c);
      byte_of[c] = static_cast<std::int16_t>(byte);
    }
  }
};

const Tables& tables() {
  static const Tables all;
  return all;
}

}  // namespace

const std::string& of(unsigned char byte) {
  return tables().of_byte[byte];
}

std::string spelled(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) out += of(static_cast<unsigned char>(c));
  return out;
}

std::optional<std::string> bytes(std::string_view characters) {
  const auto& byte_of = tables().byte_of;
  std::string out;
  for (std::size_t at = 0; at < characters.size();) {
    const auto c = unicode::code_point(characters, at);
    if (c.value >= byte_of.size() || byte_of[c.value] < 0) return std::nullopt;
    out.push_back(static_cast<char>(byte_of[c.value]));
    at += c.bytes;
  }
  return out;
}

}  // namespace metala::byte_characters
