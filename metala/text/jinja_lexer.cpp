#include "metala/text/jinja_lexer.h"

#include <algorithm>
#include <charconv>

#include "metala/base/error.h"
#include "metala/text/jinja_text.h"

namespace metala::jinja {
namespace {

// Line ends as \n, and without the last one: a template's last newline is not part of its text.
std::string normalised(std::string_view source) {
  std::string out;
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
      continue;
    }
    out += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

constexpr std::size_t longest_name = 1000;  // it is hashed at every use

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_name_start(char c) {
  return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_name_part(char c) {
  return is_name_start(c) || is_digit(c);
}
bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalised(source)), rest_(source_) {}

  std::vector<Token> run() {
    while (!rest_.empty()) {
      const std::size_t tag = find_tag();
      if (tag == std::string_view::npos) {
        add(TokenKind::text, std::string(rest_));
        rest_ = {};
        break;
      }
      enter(tag);
    }
    add(TokenKind::end, "");
    return std::move(tokens_);
  }

 private:
  std::size_t find_tag() const {
    for (std::size_t i = 0; i + 1 < rest_.size(); ++i) {
      if (rest_[i] == '{' && (rest_[i + 1] == '{' || rest_[i + 1] == '%' || rest_[i + 1] == '#')) {
        return i;
      }
    }
    return std::string_view::npos;
  }

  // The text before the tag at `tag`, then the tag.
  void enter(std::size_t tag) {
    const std::string_view text = rest_.substr(0, tag);
    const char type = rest_[tag + 1];
    const char mark = tag + 2 < rest_.size() ? rest_[tag + 2] : '\0';
    const bool marked = mark == '-' || mark == '+';
    add(TokenKind::text, std::string(before_tag(text, marked ? mark : '\0', type != '{')));
    skip(tag + (marked ? 3 : 2));
    if (type == '#') {
      comment();
    } else if (type == '{') {
      add(TokenKind::output_begin, "{{");
      expression("}}", TokenKind::output_end);
    } else if (const std::size_t raw = keyword("raw"); raw != 0) {
      skip(raw);
      if (!end_block("raw", false)) fail("line {}: %}} expected after raw", line_);
      raw_block();
    } else {
      add(TokenKind::block_begin, "{%");
      expression("%}", TokenKind::block_end);
    }
  }

  // `text` as it is left by a tag after it.
  std::string_view before_tag(std::string_view text, char mark, bool block) const {
    if (mark == '-') return trim_right(text);
    if (mark == '+' || !block) return text;
    const std::size_t newline = text.rfind('\n');
    const std::size_t line = newline == std::string_view::npos ? 0 : newline + 1;
    if (line == 0 && !at_line_start_) return text;
    return trim_right(text.substr(line)).empty() ? text.substr(0, line) : text;
  }

  // Bytes of white space and `word` at the front; 0 when something else is there.
  std::size_t keyword(std::string_view word) const {
    std::size_t at = 0;
    while (at < rest_.size() && is_space(rest_[at])) ++at;
    if (!rest_.substr(at).starts_with(word)) return 0;
    at += word.size();
    if (at < rest_.size() && is_name_part(rest_[at])) return 0;
    while (at < rest_.size() && is_space(rest_[at])) ++at;
    return at;
  }

  void skip(std::size_t count) {
    if (count == 0) return;
    const std::string_view gone = rest_.substr(0, count);
    line_ += static_cast<int>(std::count(gone.begin(), gone.end(), '\n'));
    at_line_start_ = gone.back() == '\n';
    rest_.remove_prefix(count);
  }

  // Takes the end of a block or comment, with the white space that it drops, if it stands here.
  bool end_block(std::string_view what, bool trims_newline) {
    const std::string_view end = what == "comment" ? "#}" : "%}";
    if (rest_.starts_with('-') && rest_.substr(1).starts_with(end)) {
      skip(rest_.size() - trim_left(rest_.substr(3)).size());
    } else if (rest_.starts_with('+') && rest_.substr(1).starts_with(end)) {
      skip(3);
    } else if (rest_.starts_with(end)) {
      skip(trims_newline && rest_.substr(2).starts_with('\n') ? 3 : 2);
    } else {
      return false;
    }
    return true;
  }

  void comment() {
    const int begin = line_;
    std::size_t end = rest_.find("#}");
    require(end != std::string_view::npos, "line {}: a comment that does not end with #}}", begin);
    if (end > 0 && (rest_[end - 1] == '-' || rest_[end - 1] == '+')) --end;
    skip(end);
    end_block("comment", true);
  }

  void raw_block() {
    const int begin = line_;
    const std::string_view whole = rest_;
    for (std::size_t at = 0; (at = whole.find("{%", at)) != std::string_view::npos; at += 2) {
      const char mark = at + 2 < whole.size() ? whole[at + 2] : '\0';
      const bool marked = mark == '-' || mark == '+';
      rest_ = whole.substr(at + (marked ? 3 : 2));
      const std::size_t word = keyword("endraw");
      const std::string_view end = rest_.substr(word);
      rest_ = whole;
      const bool ends = end.starts_with("%}") || end.starts_with("-%}") || end.starts_with("+%}");
      if (word == 0 || !ends) continue;
      const std::string_view text = before_tag(whole.substr(0, at), marked ? mark : '\0', true);
      skip(at + (marked ? 3 : 2) + word);
      end_block("raw", true);
      add(TokenKind::text, std::string(text));
      return;
    }
    fail("line {}: a raw block that does not end with {{% endraw %}}", begin);
  }

  // Tokens up to the tag's end.
  void expression(std::string_view end, TokenKind end_kind) {
    const int begin = line_;
    std::string open;  // brackets
    while (true) {
      while (!rest_.empty() && is_space(rest_.front())) skip(1);
      require(!rest_.empty(), "line {}: a tag that does not end with {}", begin, end);
      const int line = line_;
      if (open.empty() && end_tag(end)) {
        tokens_.push_back({end_kind, std::string(end), line});
        return;
      }
      next_token(open);
    }
  }

  bool end_tag(std::string_view end) {
    if (end == "%}") return end_block("block", true);
    if (rest_.starts_with("-}}")) {
      skip(rest_.size() - trim_left(rest_.substr(3)).size());
    } else if (rest_.starts_with("}}")) {
      skip(2);
    } else {
      return false;
    }
    return true;
  }

  void next_token(std::string& open) {
    const char c = rest_.front();
    if (is_name_start(c)) {
      std::size_t size = 1;
      while (size < rest_.size() && is_name_part(rest_[size])) ++size;
      require(size <= longest_name, "line {}: a name of {} characters; at most {} are read", line_,
              size, longest_name);
      add(TokenKind::name, std::string(rest_.substr(0, size)));
      skip(size);
    } else if (is_digit(c)) {
      number();
    } else if (c == '\'' || c == '"') {
      string(c);
    } else {
      symbol(open);
    }
  }

  void symbol(std::string& open) {
    static constexpr std::string_view symbols[] = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    const auto found = std::find_if(std::begin(symbols), std::end(symbols),
                                    [&](std::string_view s) { return rest_.starts_with(s); });
    require(found != std::end(symbols), "line {}: an unexpected character in a tag", line_);
    const char c = found->front();
    if (c == '(' || c == '[' || c == '{') open += c;
    if (c == ')' || c == ']' || c == '}') {
      const char wanted = c == ')' ? '(' : c == ']' ? '[' : '{';
      require(open.ends_with(wanted), "line {}: {} without {}", line_, c, wanted);
      open.pop_back();
    }
    add(TokenKind::symbol, std::string(*found));
    skip(found->size());
  }

  // Digits with single underscores between them.
  std::size_t digits(std::size_t at) const {
    while (at < rest_.size() &&
           (is_digit(rest_[at]) || (rest_[at] == '_' && at + 1 < rest_.size() &&
                                    is_digit(rest_[at + 1]) && is_digit(rest_[at - 1])))) {
      ++at;
    }
    return at;
  }

  void number() {
    std::size_t size = digits(0);
    bool real = false;
    const bool item = !tokens_.empty() && tokens_.back().text == ".";  // of `pair.0.1`
    const auto digit_at = [&](std::size_t at) { return at < rest_.size() && is_digit(rest_[at]); };
    if (!item && size < rest_.size() && rest_[size] == '.' && digit_at(size + 1)) {
      size = digits(size + 1);
      real = true;
    }
    if (!item && size < rest_.size() && (rest_[size] == 'e' || rest_[size] == 'E')) {
      const std::size_t sign =
          size + 1 < rest_.size() && (rest_[size + 1] == '+' || rest_[size + 1] == '-');
      if (digit_at(size + 1 + sign)) {
        size = digits(size + 1 + sign);
        real = true;
      }
    }
    std::string text(rest_.substr(0, size));
    std::erase(text, '_');
    Token token{real ? TokenKind::real : TokenKind::integer, text, line_};
    const char* const last = text.data() + text.size();
    const auto result = real ? std::from_chars(text.data(), last, token.real)
                             : std::from_chars(text.data(), last, token.integer);
    require(result.ec == std::errc() && result.ptr == last, "line {}: number {} is out of range",
            line_, text);
    tokens_.push_back(std::move(token));
    skip(size);
  }

  void string(char quote) {
    std::size_t end = 1;
    while (end < rest_.size() && rest_[end] != quote) end += rest_[end] == '\\' ? 2 : 1;
    require(end < rest_.size(), "line {}: a string that does not end", line_);
    add(TokenKind::string, unescaped(rest_.substr(1, end - 1)));
    skip(end + 1);
  }

  std::string unescaped(std::string_view text) const {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\' || i + 1 == text.size()) {
        out += text[i];
        continue;
      }
      const char c = text[++i];
      static constexpr std::string_view from = "abfnrtv\\'\"";
      static constexpr std::string_view to = "\a\b\f\n\r\t\v\\'\"";
      if (const auto known = from.find(c); known != std::string_view::npos) {
        out += to[known];
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const std::size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        append_utf8(code(text.substr(i + 1, count), count, 16), out);
        i += count;
      } else if (c >= '0' && c <= '7') {
        std::size_t count = 1;
        while (count < 3 && i + count < text.size() && text[i + count] >= '0' &&
               text[i + count] <= '7') {
          ++count;
        }
        append_utf8(code(text.substr(i, count), count, 8), out);
        i += count - 1;
      } else if (c != '\n') {  // a backslash joins lines, and is itself before anything else
        out += '\\';
        out += c;
      }
    }
    return out;
  }

  char32_t code(std::string_view digits, std::size_t count, int base) const {
    std::uint32_t value = 0;
    const char* const last = digits.data() + digits.size();
    const auto result = std::from_chars(digits.data(), last, value, base);
    const bool character = value <= 0x10FFFF && (value < 0xD800 || value > 0xDFFF);
    require(digits.size() == count && result.ec == std::errc() && result.ptr == last && character,
            "line {}: an escape in a string is not a character", line_);
    return value;
  }

  void add(TokenKind kind, std::string text) {
    if (kind == TokenKind::text && text.empty()) return;
    tokens_.push_back({kind, std::move(text), line_});
  }

  std::string source_;
  std::string_view rest_;
  std::vector<Token> tokens_;
  int line_ = 1;
  bool at_line_start_ = true;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace metala::jinja
