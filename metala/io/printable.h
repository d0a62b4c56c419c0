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

}  // namespace metala
