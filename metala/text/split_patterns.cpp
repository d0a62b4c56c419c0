#include "metala/text/split_patterns.h"

#include <algorithm>

#include "metala/text/unicode.h"

namespace metala {
namespace {

using unicode::letter;
using unicode::number;
using unicode::space;

// Bytes and classes of the character at `at`; at the end of the text no bytes.
struct Character {
  std::uint32_t bytes = 0;
  std::uint8_t classes = 0;
  bool is_letter() const { return (classes & letter) != 0; }
  bool is_number() const { return (classes & number) != 0; }
  bool is_space() const { return (classes & space) != 0; }
  bool is_symbol() const { return bytes != 0 && (classes & (letter | number | space)) == 0; }
};

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  char byte(std::size_t at) const { return at < text_.size() ? text_[at] : '\0'; }

  Character character(std::size_t at) const {
    if (at >= text_.size()) return {};
    const auto lead = static_cast<unsigned char>(text_[at]);
    if (lead < 0x80) return {1, table_.of_ascii(lead)};
    const auto c = unicode::code_point(text_, at);
    return {c.bytes, table_.of(c.value)};
  }

  // Past the characters from `at` on that are letters, or numbers.
  std::size_t past(std::uint8_t wanted, std::size_t at) const {
    for (;;) {
      while (at < text_.size() && static_cast<unsigned char>(text_[at]) < 0x80) {
        const auto c = static_cast<unsigned char>(text_[at]);
        if ((table_.of_ascii(c) & wanted) == 0) return at;
        ++at;
      }
      const Character c = character(at);
      if ((c.classes & wanted) == 0) return at;
      at += c.bytes;
    }
  }

  std::size_t past_symbols(std::size_t at) const {
    for (Character c = character(at); c.is_symbol(); c = character(at)) at += c.bytes;
    return at;
  }

  std::size_t past_line_breaks(std::size_t at) const {
    while (byte(at) == '\r' || byte(at) == '\n') ++at;
    return at;
  }

  // \s+(?!\S)|\s+ : a run of white space leaves its last character to what follows.
  std::size_t past_spaces(std::size_t at) const {
    std::size_t last = at;
    const std::size_t end = run_of_spaces(at, last);
    return end == text_.size() || last == at ? end : last;
  }

  // Past the last line break of the white space at `at`; `at` if there is none.
  std::size_t past_last_line_break(std::size_t at) const {
    std::size_t last = at;
    std::size_t end = run_of_spaces(at, last);
    while (end > at && text_[end - 1] != '\n' && text_[end - 1] != '\r') --end;
    return end;
  }

  bool ends_in_spaces(std::size_t at) const {
    std::size_t last = at;
    return run_of_spaces(at, last) == text_.size();
  }

  // 's 't 'm 'd 're 've 'll, if they stand at the apostrophe at `at`; 0: none does.
  std::size_t contraction(std::size_t at, bool any_case) const {
    const auto lower = [&](char c) {
      return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 'a' - 'A') : c;
    };
    const char first = lower(byte(at + 1));
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    const char second = lower(byte(at + 2));
    if ((first == 'r' || first == 'v') && second == 'e') return 3;
    if (first == 'l' && second == 'l') return 3;
    const bool long_s = any_case && byte(at + 1) == '\xC5' && byte(at + 2) == '\xBF';
    return long_s ? 3 : 0;  // U+017F is an s when case does not count
  }

 private:
  // The end of the white space at `at`, and where its last character begins.
  std::size_t run_of_spaces(std::size_t at, std::size_t& last) const {
    for (Character c = character(at); c.is_space(); c = character(at)) {
      last = at;
      at += c.bytes;
    }
    return at;
  }

  std::string_view text_;
  const unicode::ClassTable& table_ = unicode::ClassTable::get();
};

std::size_t split_gpt2(std::string_view text, std::size_t at) {
  const Reader in(text);
  if (text[at] == '\'') {
    if (const auto length = in.contraction(at, false)) return at + length;
  }
  const std::size_t start = text[at] == ' ' ? at + 1 : at;
  const Character first = in.character(start);
  if (first.is_letter()) return in.past(letter, start);
  if (first.is_number()) return in.past(number, start);
  if (first.is_symbol()) return in.past_symbols(start);
  return in.past_spaces(at);
}

// How the patterns after GPT-4's differ.
struct Variant {
  int most_digits;
  bool whole_end;
};

template <Variant variant>
std::size_t split_cl100k(std::string_view text, std::size_t at) {
  const Reader in(text);
  if (text[at] == '\'') {
    if (const auto length = in.contraction(at, true)) return at + length;
  }
  const Character first = in.character(at);
  if (first.is_letter()) return in.past(letter, at + first.bytes);
  if (first.is_number()) {
    std::size_t end = at + first.bytes;
    for (int digits = 1; digits < variant.most_digits; ++digits) {
      const Character next = in.character(end);
      if (!next.is_number()) break;
      end += next.bytes;
    }
    return end;
  }
  const bool line_break = text[at] == '\r' || text[at] == '\n';
  if (!line_break && in.character(at + first.bytes).is_letter()) {
    return in.past(letter, at + first.bytes);
  }
  const std::size_t start = text[at] == ' ' ? at + 1 : at;
  if (in.character(start).is_symbol()) return in.past_line_breaks(in.past_symbols(start));
  if (variant.whole_end && in.ends_in_spaces(at)) return text.size();
  if (const auto end = in.past_last_line_break(at); end > at) return end;
  return in.past_spaces(at);
}

struct Known {
  std::string_view pattern;
  Splitter splitter;
};

}  // namespace

namespace split_patterns {

const char* const gpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const cl100k =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const cl100k_whole_end =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s)";
const char* const qwen =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const o200k =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Splitter find(std::string_view pattern) {
  static const Known all[] = {
      {gpt2, split_gpt2},
      {R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", split_gpt2},
      {R"('(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s)",
       split_gpt2},
      {cl100k, split_cl100k<Variant{3, false}>},
      {cl100k_whole_end, split_cl100k<Variant{3, true}>},
      {qwen, split_cl100k<Variant{1, false}>},
  };
  const auto* known = std::find_if(std::begin(all), std::end(all),
                                   [&](const Known& k) { return k.pattern == pattern; });
  return known == std::end(all) ? nullptr : known->splitter;
}

}  // namespace split_patterns
}  // namespace metala
