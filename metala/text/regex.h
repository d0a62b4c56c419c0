// Regular expressions of tokenizers: Oniguruma, with bounds on what a pattern may cost.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "metala/base/function_ref.h"

namespace metala {

class Regex {
 public:
  // The pattern language: Oniguruma's own (tokenizer.json), or Perl's with possessive intervals,
  // which is how Rust's and tiktoken's read the patterns that tokenizers have.
  enum class Syntax { oniguruma, perl };

  // `source` names the pattern in errors. Throws Error for a pattern that is not one, or is longer
  // than 64 KiB.
  Regex(const std::string& pattern, Syntax syntax, const std::string& source);

  // Calls `match(begin, end)` for the matches in `text` (valid UTF-8), left to right. An empty
  // match is passed over where the one before it ended. Throws Error for a text on which the
  // pattern backtracks too often, 2,000 times for each of its bytes and at most ten million times
  // from one place, or takes longer than 10 microseconds for each byte.
  void each(std::string_view text, FunctionRef<void(std::size_t, std::size_t)> match) const;

 private:
  std::string source_;
  bool looks_at_start_;  // has a \G, which holds where a search begins
  std::shared_ptr<void> compiled_;
};

}  // namespace metala
