#include "metala/text/jinja_text.h"

#include <algorithm>
#include <cstdint>

namespace metala::jinja {
namespace {

std::size_t character_bytes(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

std::string_view last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return text.substr(at);
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

// Letters whose upper case has even (or odd) numbers, the lower case following at once.
struct Pairs {
  char32_t first, last;
};
constexpr Pairs pairs[] = {{0x100, 0x12F}, {0x132, 0x137}, {0x139, 0x148}, {0x14A, 0x177},
                           {0x179, 0x17E}, {0x460, 0x481}, {0x48A, 0x4BF}, {0x4D0, 0x52F}};
// Ranges of upper-case letters, and how far their lower case is.
struct Shift {
  char32_t first, last, distance;
};
constexpr Shift shifts[] = {{'A', 'Z', 32},     {0xC0, 0xD6, 32},   {0xD8, 0xDE, 32},
                            {0x386, 0x386, 38}, {0x388, 0x38A, 37}, {0x38C, 0x38C, 64},
                            {0x38E, 0x38F, 63}, {0x391, 0x3A1, 32}, {0x3A3, 0x3AB, 32},
                            {0x400, 0x40F, 80}, {0x410, 0x42F, 32}};

char32_t lower_of(char32_t c) {
  if (c == 0x178) return 0xFF;
  for (const auto& s : shifts) {
    if (c >= s.first && c <= s.last) return c + s.distance;
  }
  for (const auto& p : pairs) {
    if (c >= p.first && c <= p.last) return (c - p.first) % 2 == 0 ? c + 1 : c;
  }
  return c;
}

char32_t upper_of(char32_t c) {
  if (c == 0xFF) return 0x178;
  if (c == 0x3C2) return 0x3A3;  // the sigma at a word's end
  for (const auto& s : shifts) {
    if (c >= s.first + s.distance && c <= s.last + s.distance) return c - s.distance;
  }
  for (const auto& p : pairs) {
    if (c >= p.first && c <= p.last) return (c - p.first) % 2 == 1 ? c - 1 : c;
  }
  return c;
}

void append_upper(char32_t c, std::string& out) {
  if (c == 0xDF) {
    out += "SS";
  } else {
    append_utf8(upper_of(c), out);
  }
}

// ß begins a word as Ss.
void append_title(char32_t c, std::string& out) {
  if (c == 0xDF) {
    out += "Ss";
  } else {
    append_utf8(upper_of(c), out);
  }
}

bool is_cased(char32_t c) {
  return c == 0xDF || lower_of(c) != c || upper_of(c) != c;
}

bool exhausted(const std::vector<std::string>& parts, std::int64_t most) {
  return most >= 0 && static_cast<std::int64_t>(parts.size()) >= most;
}

}  // namespace

void append_utf8(char32_t c, std::string& out) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

char32_t decode_utf8(std::string_view character) {
  const auto byte = [&](std::size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(character[i]));
  };
  if (character.size() == 1) return byte(0);
  char32_t code = byte(0) & (0x7Fu >> character.size());
  for (std::size_t i = 1; i < character.size(); ++i) code = code << 6 | (byte(i) & 0x3F);
  return code;
}

std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string_view first_character(std::string_view text) {
  return text.substr(0, character_bytes(text.front()));
}

std::vector<std::string_view> split_characters(std::string_view text) {
  std::vector<std::string_view> out;
  for (; !text.empty(); text.remove_prefix(out.back().size())) {
    out.push_back(first_character(text));
  }
  return out;
}

std::string_view trim_left(std::string_view text) {
  while (!text.empty()) {
    const std::string_view c = first_character(text);
    if (!is_space(decode_utf8(c))) break;
    text.remove_prefix(c.size());
  }
  return text;
}

std::string_view trim_right(std::string_view text) {
  while (!text.empty()) {
    const std::string_view c = last_character(text);
    if (!is_space(decode_utf8(c))) break;
    text.remove_suffix(c.size());
  }
  return text;
}

// A whole character of valid UTF-8 is found in a set only where one of the set's stands.
std::string_view trim_left(std::string_view text, std::string_view set) {
  while (!text.empty()) {
    const std::string_view c = first_character(text);
    if (set.find(c) == std::string_view::npos) break;
    text.remove_prefix(c.size());
  }
  return text;
}

std::string_view trim_right(std::string_view text, std::string_view set) {
  while (!text.empty()) {
    const std::string_view c = last_character(text);
    if (set.find(c) == std::string_view::npos) break;
    text.remove_suffix(c.size());
  }
  return text;
}

std::vector<std::string> split(std::string_view text, std::int64_t most) {
  std::vector<std::string> parts;
  for (text = trim_left(text); !text.empty(); text = trim_left(text)) {
    if (exhausted(parts, most)) {
      parts.emplace_back(text);
      break;
    }
    std::size_t end = 0;
    while (end < text.size() && !is_space(decode_utf8(first_character(text.substr(end))))) {
      end += character_bytes(text[end]);
    }
    parts.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return parts;
}

std::vector<std::string> split_from_back(std::string_view text, std::int64_t most) {
  std::vector<std::string> parts;
  for (text = trim_right(text); !text.empty(); text = trim_right(text)) {
    if (exhausted(parts, most)) {
      parts.emplace_back(text);
      break;
    }
    std::size_t begin = text.size();
    while (begin > 0) {
      const std::string_view c = last_character(text.substr(0, begin));
      if (is_space(decode_utf8(c))) break;
      begin -= c.size();
    }
    parts.emplace_back(text.substr(begin));
    text = text.substr(0, begin);
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string> split(std::string_view text, std::string_view separator,
                               std::int64_t most) {
  std::vector<std::string> parts;
  while (!exhausted(parts, most)) {
    const std::size_t at = text.find(separator);
    if (at == std::string_view::npos) break;
    parts.emplace_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  parts.emplace_back(text);
  return parts;
}

std::vector<std::string> split_from_back(std::string_view text, std::string_view separator,
                                         std::int64_t most) {
  std::vector<std::string> parts;
  while (!exhausted(parts, most)) {
    const std::size_t at = text.rfind(separator);
    if (at == std::string_view::npos) break;
    parts.emplace_back(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  parts.emplace_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  const auto ends_line = [](char32_t c) {
    return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
  };
  std::vector<std::string> lines;
  while (!text.empty()) {
    std::size_t end = 0;
    while (end < text.size() && !ends_line(decode_utf8(first_character(text.substr(end))))) {
      end += character_bytes(text[end]);
    }
    std::size_t next = end;
    if (next < text.size()) {
      next += text.substr(end).starts_with("\r\n") ? 2 : character_bytes(text[end]);
    }
    lines.emplace_back(text.substr(0, keep_ends ? next : end));
    text.remove_prefix(next);
  }
  return lines;
}

std::size_t possible_lines(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte >= 0x0A && byte <= 0x0D) || (byte >= 0x1C && byte <= 0x1E) || byte == 0xC2 ||
           byte == 0xE2;
  }));
}

std::size_t search_steps(std::string_view text, std::string_view part) {
  return text.size() / 64 * (1 + part.size() / 16);
}

std::size_t count(std::string_view text, std::string_view part) {
  if (part.empty()) return characters(text) + 1;
  std::size_t found = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string_view::npos;) {
    ++found;
    at += part.size();
  }
  return found;
}

std::string replace(std::string_view text, std::string_view from, std::string_view to,
                    std::int64_t most, Budget& budget) {
  budget.step(search_steps(text, from));
  std::size_t left = count(text, from);
  if (most >= 0) left = std::min(left, static_cast<std::size_t>(most));
  budget.bytes(text.size() + left * to.size());
  std::string out;
  for (; left > 0; --left) {
    const std::size_t at = text.find(from);
    out += text.substr(0, at);
    out += to;
    text.remove_prefix(at + from.size());
    if (from.empty() && !text.empty()) {
      out += first_character(text);
      text.remove_prefix(first_character(text).size());
    }
  }
  out += text;
  return out;
}

std::string upper(std::string_view text) {
  std::string out;
  for (; !text.empty(); text.remove_prefix(character_bytes(text.front()))) {
    append_upper(decode_utf8(first_character(text)), out);
  }
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  for (; !text.empty(); text.remove_prefix(character_bytes(text.front()))) {
    append_utf8(lower_of(decode_utf8(first_character(text))), out);
  }
  return out;
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return {};
  std::string out;
  append_title(decode_utf8(first_character(text)), out);
  return out + lower(text.substr(character_bytes(text.front())));
}

std::string title(std::string_view text) {
  std::string out;
  bool within_word = false;
  for (; !text.empty(); text.remove_prefix(character_bytes(text.front()))) {
    const char32_t c = decode_utf8(first_character(text));
    if (within_word) {
      append_utf8(lower_of(c), out);
    } else {
      append_title(c, out);
    }
    within_word = is_cased(c);
  }
  return out;
}

}  // namespace metala::jinja
