// UTF-8: finding what is valid, and cutting a stream of bytes only between characters.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace metala {

// Bytes at the start of `text` that are valid, whole characters (no overlong forms, no surrogates,
// nothing above U+10FFFF).
std::size_t valid_utf8_prefix(std::string_view text);

// Every maximal invalid part replaced by U+FFFD (Unicode's recommended practice).
std::string replace_invalid_utf8(std::string_view text);

// Every byte of an invalid part replaced by U+FFFD, as SentencePiece does.
std::string replace_each_invalid_byte(std::string_view text);

// Every invalid byte spelled <0xXX>: bytes of a token to show.
std::string spell_invalid_utf8(std::string_view text);

// Takes bytes in any pieces and gives back text that never ends within a character; invalid bytes
// come out as U+FFFD. What is held back is at most 3 bytes.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);
  std::string flush();  // the rest; an unfinished character becomes U+FFFD

 private:
  std::string pending_;
};

}  // namespace metala
