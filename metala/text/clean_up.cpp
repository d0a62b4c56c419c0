#include "metala/text/clean_up.h"

#include <utility>

namespace metala {
namespace {

void replace_all(std::string& text, std::string_view what, std::string_view with) {
  std::string out;
  std::size_t at = 0;
  for (auto found = text.find(what); found != std::string::npos; found = text.find(what, at)) {
    out.append(text, at, found - at);
    out += with;
    at = found + what.size();
  }
  if (at == 0) return;
  out.append(text, at);
  text = std::move(out);
}

}  // namespace

std::string clean_up_spaces(std::string text) {
  for (const std::string_view mark : {".", "?", "!", ","}) {
    replace_all(text, " " + std::string(mark), mark);
  }
  replace_all(text, " ' ", "'");
  for (const std::string_view ending : {"n't", "'m", "'s", "'ve", "'re"}) {
    replace_all(text, " " + std::string(ending), ending);
  }
  return text;
}

// All that is replaced begins with a space and has no other, but for " ' ": a cut before a space
// is a cut between replacements unless " '" stands before it. So is a cut after what no replacement
// that begins there can reach.
std::string CleanUpStream::push(std::string_view text) {
  constexpr std::size_t longest = 4;  // " n't"
  pending_ += text;
  std::size_t cut = pending_.rfind(' ');
  if (cut == std::string::npos || pending_.size() - cut >= longest) {
    return clean_up_spaces(std::exchange(pending_, {}));
  }
  while (cut != std::string::npos && cut >= 2 && pending_.compare(cut - 2, 2, " '") == 0) {
    cut = pending_.rfind(' ', cut - 1);
  }
  if (cut == std::string::npos) return {};
  std::string ready = pending_.substr(0, cut);
  pending_.erase(0, cut);
  return clean_up_spaces(std::move(ready));
}

std::string CleanUpStream::flush() {
  return clean_up_spaces(std::exchange(pending_, {}));
}

}  // namespace metala
