// Words from a file that may be hostile, fit for one line of an error message.
#pragma once

#include <string>
#include <string_view>

namespace metala {

// At most 80 bytes of `text`, with "?" for every byte that is not printable ASCII.
inline std::string printable(std::string_view text) {
  std::string shown(text.substr(0, 80));
  for (char& c : shown) {
    if (c < ' ' || c > '~') c = '?';
  }
  return shown;
}

// `text`, which is UTF-8, as it is but for control characters: "?" instead, and for line ends a
// space.
inline std::string one_line(std::string_view text) {
  std::string shown;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009F, which terminals obey as they do the first 32.
    const bool second =
        byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (second) ++i;
    if (text[i] == '\n') {
      shown += ' ';
    } else if (second || byte < ' ' || byte == 0x7F) {
      shown += '?';
    } else {
      shown += text[i];
    }
  }
  return shown;
}

}  // namespace metala
