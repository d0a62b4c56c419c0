// Added tokens: tokens that are found in the text by their name, before the vocabulary sees it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "metala/base/function_ref.h"

namespace metala {

struct AddedToken {
  std::string content;
  std::int32_t id = -1;
  bool single_word = false;  // not next to a character of a word
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // and after it
  bool normalized = false;   // is looked for in the normalised text
  bool special = false;      // no part of the text: <s>, <|im_start|>
};

// Finds the longest of several names at the leftmost place, again and again.
class AddedTokenFinder {
 public:
  // `name` is what stands in the text for `token`; of equal names the first holds. Throws Error for
  // more than 1 MiB of names; `source` names them.
  void add(std::string name, AddedToken token, const std::string& source);
  bool empty() const { return tokens_.empty(); }

  // Hands over `text`, any bytes, in order: parts without tokens to `on_text` (never empty, with
  // the place in `text`), tokens to `on_token`. Special ones are passed over, as text, unless asked
  // for.
  void split(std::string_view text, bool special,
             FunctionRef<void(std::string_view part, std::size_t at)> on_text,
             FunctionRef<void(const AddedToken&)> on_token) const;

 private:
  struct Match {
    const AddedToken* token = nullptr;
    std::size_t begin = 0, end = 0;
  };
  Match find(std::string_view text, std::size_t from) const;
  std::int32_t longest_at(std::string_view text, std::size_t at, std::size_t& end) const;

  std::vector<AddedToken> tokens_;
  // The names as a tree of bytes: (node, byte) leads to a node; node 0 is the root.
  std::unordered_map<std::uint64_t, std::uint32_t> children_;
  std::vector<std::int32_t> token_at_ = {-1};
  // Which two bytes can begin a name: looked at first, for most of a text begins none.
  std::vector<bool> beginnings_ = std::vector<bool>(std::size_t{1} << 16);
  std::size_t shortest_ = ~std::size_t{0};
};

}  // namespace metala
