#include "metala/text/added_tokens.h"

#include <algorithm>

#include "metala/base/error.h"
#include "metala/text/unicode.h"
#include "metala/text/utf8.h"

namespace metala {
namespace {

constexpr std::size_t most_nodes = std::size_t{1} << 20;

std::size_t index_of_two(char first, char second) {
  return std::size_t{static_cast<unsigned char>(first)} * 256 + static_cast<unsigned char>(second);
}

// The classes of the first character of `text`, and its bytes; none where it is not UTF-8.
std::uint8_t first_classes(std::string_view text, std::size_t& bytes) {
  if (valid_utf8_prefix(text.substr(0, 4)) == 0) return 0;
  const auto c = unicode::code_point(text, 0);
  bytes = c.bytes;
  return unicode::classes(c.value);
}

bool begins_with_word(std::string_view text) {
  std::size_t bytes = 0;
  return (first_classes(text, bytes) & unicode::word) != 0;
}

std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool ends_with_word(std::string_view text) {
  return !text.empty() && begins_with_word(text.substr(last_character(text)));
}

// Where the white space that ends `text` begins.
std::size_t trailing_space(std::string_view text) {
  while (!text.empty()) {
    const std::size_t at = last_character(text);
    std::size_t bytes = 0;
    if ((first_classes(text.substr(at), bytes) & unicode::space) == 0) break;
    text = text.substr(0, at);
  }
  return text.size();
}

std::size_t leading_space(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    std::size_t bytes = 0;
    if ((first_classes(text.substr(at), bytes) & unicode::space) == 0) break;
    at += bytes;
  }
  return at;
}

}  // namespace

void AddedTokenFinder::add(std::string name, AddedToken token, const std::string& source) {
  if (name.empty()) return;
  require(token_at_.size() + name.size() <= most_nodes,
          "{}: the names of added tokens take more than {} bytes", source, most_nodes);
  std::uint32_t node = 0;
  for (const char c : name) {
    const std::uint64_t edge = (std::uint64_t{node} << 8) | static_cast<unsigned char>(c);
    const auto [child, fresh] =
        children_.emplace(edge, static_cast<std::uint32_t>(token_at_.size()));
    if (fresh) token_at_.push_back(-1);
    node = child->second;
  }
  if (token_at_[node] >= 0) return;
  token_at_[node] = static_cast<std::int32_t>(tokens_.size());
  for (std::size_t second = 0; second < 256; ++second) {
    const char other = name.size() > 1 ? name[1] : static_cast<char>(second);
    beginnings_[index_of_two(name[0], other)] = true;
  }
  shortest_ = std::min(shortest_, name.size());
  tokens_.push_back(std::move(token));
}

std::int32_t AddedTokenFinder::longest_at(std::string_view text, std::size_t at,
                                          std::size_t& end) const {
  std::int32_t found = -1;
  std::uint32_t node = 0;
  while (at < text.size()) {
    const auto child =
        children_.find((std::uint64_t{node} << 8) | static_cast<unsigned char>(text[at]));
    if (child == children_.end()) break;
    node = child->second;
    ++at;
    if (token_at_[node] >= 0) {
      found = token_at_[node];
      end = at;
    }
  }
  return found;
}

AddedTokenFinder::Match AddedTokenFinder::find(std::string_view text, std::size_t from) const {
  for (std::size_t at = from; at + shortest_ <= text.size(); ++at) {
    const char second = at + 1 < text.size() ? text[at + 1] : '\0';
    if (!beginnings_[index_of_two(text[at], second)]) continue;
    std::size_t end = at;
    const std::int32_t found = longest_at(text, at, end);
    if (found >= 0) return {&tokens_[static_cast<std::size_t>(found)], at, end};
  }
  return {};
}

void AddedTokenFinder::split(std::string_view text, bool special,
                             FunctionRef<void(std::string_view, std::size_t)> on_text,
                             FunctionRef<void(const AddedToken&)> on_token) const {
  std::size_t done = 0;
  const auto give_text = [&](std::size_t end) {
    if (done < end) on_text(text.substr(done, end - done), done);
  };
  if (!empty()) {
    for (Match m = find(text, 0); m.token != nullptr; m = find(text, m.end)) {
      if (m.token->special && !special) continue;
      if (m.token->single_word &&
          (ends_with_word(text.substr(0, m.begin)) || begins_with_word(text.substr(m.end)))) {
        continue;
      }
      std::size_t begin = m.begin;
      std::size_t end = m.end;
      if (m.token->lstrip) begin = std::max(trailing_space(text.substr(0, begin)), done);
      if (m.token->rstrip) end += leading_space(text.substr(end));
      give_text(begin);
      on_token(*m.token);
      done = end;
    }
  }
  give_text(text.size());
}

}  // namespace metala
