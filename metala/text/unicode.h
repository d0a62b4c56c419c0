// Unicode: code points of UTF-8, their classes, normal forms.
//
// Letters, numbers, marks, spaces and word characters are what the regular expressions of
// tokenizers mean by \p{L}, \p{N}, \p{M}, \s and \w: the tables are Oniguruma's own.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace metala::unicode {

struct CodePoint {
  char32_t value;
  std::uint32_t bytes;
};

// The code point that begins at `at`. `text` must be valid UTF-8 and `at` the start of a character.
inline CodePoint code_point(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const char32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {((lead & 0x1F) << 6) | (byte(1) & 0x3Fu), 2};
  if (lead < 0xF0) {
    return {((lead & 0x0F) << 12) | ((byte(1) & 0x3Fu) << 6) | (byte(2) & 0x3Fu), 3};
  }
  return {((lead & 0x07) << 18) | ((byte(1) & 0x3Fu) << 12) | ((byte(2) & 0x3Fu) << 6) |
              (byte(3) & 0x3Fu),
          4};
}

void append(std::string& text, char32_t code_point);

enum Class : std::uint8_t { letter = 1, number = 2, space = 4, mark = 8, word = 16 };

// A set of classes for every code point: pages of 256, equal ones shared.
class ClassTable {
 public:
  static const ClassTable& get();
  std::uint8_t of(char32_t c) const { return pages_[page_of_[c >> 8] * 256u + (c & 0xFF)]; }
  std::uint8_t of_ascii(unsigned char c) const { return pages_[c]; }  // the first page

 private:
  ClassTable();
  std::vector<std::uint16_t> page_of_;
  std::vector<std::uint8_t> pages_;
};

inline std::uint8_t classes(char32_t c) {
  return ClassTable::get().of(c);
}
inline bool is_space(char32_t c) {
  return (classes(c) & space) != 0;
}
// ASCII punctuation (with $, +, < and the like) or general category P.
bool is_punctuation(char32_t c);

enum class Form { nfc, nfd, nfkc, nfkd };

// `text`, valid UTF-8, in a normal form.
std::string normalised(std::string_view text, Form form);
// Whether `text` is certainly in the form already; cheap, and true of nearly all text for NFC.
bool surely_normalised(std::string_view text, Form form);
// Lower case by the full mapping, character by character.
std::string lowercased(std::string_view text);

}  // namespace metala::unicode
