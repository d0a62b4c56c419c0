#include "metala/text/jinja_print.h"

#include <utf8proc.h>

#include <algorithm>
#include <cmath>

#include "metala/text/jinja_ast.h"
#include "metala/text/jinja_text.h"

namespace metala::jinja {
namespace {

std::string real_text(double value, bool json) {
  if (std::isnan(value)) return json ? "NaN" : "nan";
  if (std::isinf(value)) {
    const std::string sign = value < 0 ? "-" : "";
    return sign + (json ? "Infinity" : "inf");
  }
  std::string text = fmt::format("{}", value);  // the shortest that reads back, as in Python
  const bool looks_whole = text.find_first_of(".e") == std::string::npos;
  return looks_whole ? text + ".0" : text;
}

// Whether Python writes a character as it is, and not by its number.
bool is_printable(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_ZS:
      return c == ' ';
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
      return false;
    default:
      return true;
  }
}

std::string escaped(char32_t c) {
  const auto code = static_cast<unsigned>(c);
  return c < 0x100     ? fmt::format("\\x{:02x}", code)
         : c < 0x10000 ? fmt::format("\\u{:04x}", code)
                       : fmt::format("\\U{:08x}", code);
}

// As in Python's source code.
std::string quoted(const std::string& text) {
  const bool has_single = text.find('\'') != std::string::npos;
  const char quote = has_single && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view character = first_character(rest);
    rest.remove_prefix(character.size());
    const char c = character.front();
    if (c == quote || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (const char32_t code = decode_utf8(character); is_printable(code)) {
      out += character;
    } else {
      out += escaped(code);
    }
  }
  return out + quote;
}

void escape_utf16(char32_t c, std::string& out) {
  if (c >= 0x10000) {
    c -= 0x10000;
    out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + static_cast<unsigned>(c >> 10),
                       0xDC00 + static_cast<unsigned>(c & 0x3FF));
  } else {
    out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
  }
}

std::string json_string(const std::string& text, bool ascii) {
  static constexpr std::string_view from = "\"\\\n\r\t\b\f";
  static constexpr std::string_view to = "\"\\nrtbf";
  std::string out = "\"";
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view character = first_character(rest);
    rest.remove_prefix(character.size());
    const char c = character.front();
    if (const auto known = from.find(c); known != std::string_view::npos) {
      out += '\\';
      out += to[known];
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else if (ascii && character.size() > 1) {
      escape_utf16(decode_utf8(character), out);
    } else {
      out += character;
    }
  }
  return out + '"';
}

class Printer {
 public:
  explicit Printer(Budget& budget) : budget_(budget) {}

  std::string run(const Value& value) {
    print(value);
    return std::move(out_);
  }

 private:
  void add(std::string_view text) {
    budget_.bytes(text.size());
    out_ += text;
  }

  void print(const Value& value) {
    budget_.step();
    if (const auto* text = value.string()) {
      budget_.bytes(text->size());
      return add(quoted(*text));
    }
    if (value.is_none()) return add("None");
    if (const auto* truth = value.get_if<bool>()) return add(*truth ? "True" : "False");
    if (const auto integer = value.integer()) return add(fmt::format("{}", *integer));
    if (const auto* real = value.get_if<double>()) return add(real_text(*real, false));
    if (const auto* list = value.sequence()) return print(*list);
    if (const auto* dict = value.dict()) return print(*dict);
    if (value.is_undefined()) return add("Undefined");
    fail("{} cannot be printed", value.type_name());
  }

  void print(const Sequence& list) {
    const bool tuple = list.form == Sequence::Form::tuple;
    add(tuple ? "(" : "[");
    const char* separator = "";
    for (const auto& item : list.items) {
      add(std::exchange(separator, ", "));
      print(item);
    }
    if (tuple && list.items.size() == 1) add(",");
    add(tuple ? ")" : "]");
  }

  void print(const Dict& dict) {
    add("{");
    const char* separator = "";
    for (const auto& [key, value] : dict.entries) {
      add(std::exchange(separator, ", "));
      print(key);
      add(": ");
      print(value);
    }
    add("}");
  }

  Budget& budget_;
  std::string out_;
};

class JsonPrinter {
 public:
  JsonPrinter(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {
    separator_ = style.item_separator.value_or(style.indent ? "," : ", ");
  }

  std::string run(const Value& value) {
    print(value, 0);
    return std::move(out_);
  }

 private:
  void add(std::string_view text) {
    budget_.bytes(text.size());
    out_ += text;
  }

  void break_line(std::size_t level) {
    if (!style_.indent) return;
    add("\n");
    for (std::size_t i = 0; i < level; ++i) add(*style_.indent);
  }

  void string(const std::string& text) {
    budget_.bytes(text.size());
    add(json_string(text, style_.ascii));
  }

  void print(const Value& value, std::size_t level) {
    budget_.step();
    if (const auto* text = value.string()) return string(*text);
    if (value.is_none()) return add("null");
    if (const auto* truth = value.get_if<bool>()) return add(*truth ? "true" : "false");
    if (const auto integer = value.integer()) return add(fmt::format("{}", *integer));
    if (const auto* real = value.get_if<double>()) return add(real_text(*real, true));
    if (const auto* list = value.sequence()) return print(*list, level);
    if (const auto* dict = value.dict()) return print(*dict, level);
    require(!value.is_undefined(), "{}, so it has no JSON", value.undefined_message());
    fail("{} has no JSON", value.type_name());
  }

  void print(const Sequence& list, std::size_t level) {
    require(list.form != Sequence::Form::generator,
            "what a filter gives has no JSON; make it a list with |list");
    if (list.items.empty()) return add("[]");
    add("[");
    for (std::size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) add(separator_);
      break_line(level + 1);
      print(list.items[i], level + 1);
    }
    break_line(level);
    add("]");
  }

  void print(const Dict& dict, std::size_t level) {
    if (dict.entries.empty()) return add("{}");
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
        return compare(a->first, b->first, budget_) < 0;
      });
    }
    add("{");
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) add(separator_);
      break_line(level + 1);
      const Value& key = entries[i]->first;
      if (const auto* text = key.string()) {
        string(*text);
      } else {
        add("\"");
        print(key, level + 1);
        add("\"");
      }
      add(style_.key_separator);
      print(entries[i]->second, level + 1);
    }
    break_line(level);
    add("}");
  }

  const JsonStyle& style_;
  Budget& budget_;
  std::string separator_;
  std::string out_;
};

}  // namespace

std::string to_text(const Value& value, Budget& budget) {
  if (value.is_undefined()) return {};
  if (const auto* text = value.string()) {
    budget.bytes(text->size());
    return *text;
  }
  return Printer(budget).run(value);
}

std::string to_json(const Value& value, const JsonStyle& style, Budget& budget) {
  return JsonPrinter(style, budget).run(value);
}

}  // namespace metala::jinja
