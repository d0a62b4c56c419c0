// A template cut into tokens: text, and what stands in {{ }} and {% %}. Comments, raw blocks and
// white space that trim_blocks, lstrip_blocks and the `-` and `+` marks drop are gone after this.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace metala::jinja {

enum class TokenKind {
  text,
  output_begin,  // {{
  output_end,    // }}
  block_begin,   // {%
  block_end,     // %}
  name,
  string,  // `text` is what it stands for, escapes resolved
  integer,
  real,
  symbol,  // operators and brackets
  end
};

struct Token {
  TokenKind kind;
  std::string text;
  int line;
  std::int64_t integer = 0;
  double real = 0;
};

// Error "line N: ..." for tags or strings that do not end and for characters that mean nothing.
std::vector<Token> tokenize(std::string_view source);

}  // namespace metala::jinja
