// Values as text: what {{ }} prints, Python's repr, and JSON.
#pragma once

#include <optional>
#include <string>

#include "metala/text/jinja_value.h"

namespace metala::jinja {

// As Python's str: strings as they are, True, 1.0, ['a', none...]; nothing for undefined.
std::string to_text(const Value& value, Budget& budget);

struct JsonStyle {
  std::optional<std::string> indent;  // of one level; without it all on one line
  std::optional<std::string> item_separator;
  std::string key_separator = ": ";
  bool sort_keys = false;
  bool ascii = false;  // other characters as \uXXXX
};

// As Python's json.dumps. Error for what JSON cannot hold.
std::string to_json(const Value& value, const JsonStyle& style, Budget& budget);

}  // namespace metala::jinja
