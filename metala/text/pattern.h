// What tokenizer.json looks for in text: {"String": s} or {"Regex": r}.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "metala/base/function_ref.h"
#include "metala/text/json_fields.h"
#include "metala/text/regex.h"

namespace metala {

class Pattern {
 public:
  Pattern(const nlohmann::json& json, const std::string& place);

  // Calls `match(begin, end)` for the matches in `text` (valid UTF-8), left to right.
  void each(std::string_view text, FunctionRef<void(std::size_t, std::size_t)> match) const;

  // `text` with every match replaced. Throws Error when that takes more than `most` bytes.
  std::string replaced(std::string_view text, std::string_view content, std::size_t most) const;

  // The regular expression, empty if it is not one.
  const std::string& regex_source() const { return regex_source_; }

 private:
  std::string place_;
  std::string literal_;
  std::string regex_source_;
  std::shared_ptr<const Regex> regex_;  // null: the literal
};

}  // namespace metala
