// Filters that give one value: text, numbers, JSON, defaults.
#include <charconv>
#include <cmath>
#include <map>

#include "metala/text/jinja_access.h"
#include "metala/text/jinja_filters.h"
#include "metala/text/jinja_print.h"
#include "metala/text/jinja_text.h"

namespace metala::jinja {
namespace {

template <std::string (*change)(std::string_view)>
Value changed(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("a filter of a string", std::move(given), {});
  return change(to_text(operand, budget));
}

// Words after spaces, dashes and opening brackets, which is not what the method `title` does.
std::string titled(std::string_view text) {
  static constexpr std::string_view before_words = " \t\n\r\v\f-({[<";
  std::string out;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of(before_words), text.size());
    out += capitalize(text.substr(0, end));
    if (end < text.size()) out += text[end];
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

Value trim(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("trim", std::move(given), {"chars"});
  const std::string text = to_text(operand, budget);
  const auto set = arguments.optional_text(0);
  if (set) budget.step(search_steps(text, *set));
  return std::string(set ? trim_right(trim_left(text, *set), *set) : trim_right(trim_left(text)));
}

Value replace_filter(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("replace", std::move(given), {"old", "new", "count"});
  return replace(to_text(operand, budget), to_text(arguments.at(0), budget),
                 to_text(arguments.at(1), budget), arguments.optional_integer(2).value_or(-1),
                 budget);
}

Value indent(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("indent", std::move(given), {"width", "first", "blank"});
  const std::string text = to_text(operand, budget);
  std::string indention;
  if (arguments.has(0) && arguments.at(0).is_string()) {
    indention = arguments.text(0, "");
  } else {
    const std::int64_t width = std::max<std::int64_t>(0, arguments.integer(0, 4));
    budget.bytes(static_cast<std::size_t>(width));
    indention.assign(static_cast<std::size_t>(width), ' ');
  }
  const bool blank = arguments.truth(2, false);
  budget.items(1 + possible_lines(text));
  const auto lines = split_lines(text + "\n", false);
  std::string out = arguments.truth(1, false) ? indention : "";
  for (std::size_t i = 0; i < lines.size(); ++i) {
    budget.bytes(lines[i].size() + 1 + indention.size());
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += indention;
    out += lines[i];
  }
  return out;
}

Value escape(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("escape", std::move(given), {});
  std::string text = to_text(operand, budget);
  for (const auto& [from, to] :
       {std::pair("&", "&amp;"), std::pair("<", "&lt;"), std::pair(">", "&gt;"),
        std::pair("'", "&#39;"), std::pair("\"", "&#34;")}) {
    text = replace(text, from, to, -1, budget);
  }
  return text;
}

Value string(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("string", std::move(given), {});
  return to_text(operand, budget);
}

Value tojson(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("tojson", std::move(given),
                        {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ascii = arguments.truth(0, false);
  if (arguments.has(1) && arguments.at(1).is_string()) {
    style.indent = arguments.text(1, "");
  } else if (const auto width = arguments.optional_integer(1)) {
    require(*width <= 64, "tojson: indent is {}, more than 64", *width);
    style.indent = std::string(static_cast<std::size_t>(std::max<std::int64_t>(0, *width)), ' ');
  }
  if (arguments.has(2) && !arguments.at(2).is_none()) {
    const auto* pair = arguments.at(2).sequence();
    require(pair != nullptr && pair->items.size() == 2 && pair->items[0].is_string() &&
                pair->items[1].is_string(),
            "tojson: separators are not two strings");
    for (const auto& separator : pair->items) charge(separator, budget);
    style.item_separator = *pair->items[0].string();
    style.key_separator = *pair->items[1].string();
  }
  style.sort_keys = arguments.truth(3, false);
  return to_json(operand, style, budget);
}

Value default_value(const Value& operand, Given given, Budget&) {
  const Bound arguments("default", std::move(given), {"default_value", "boolean"});
  const bool absent = operand.is_undefined() || (arguments.truth(1, false) && !operand.truthy());
  if (!absent) return operand;
  return arguments.has(0) ? arguments.at(0) : Value("");
}

std::optional<double> parse_real(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::int64_t> parse_integer(std::string_view text, int base) {
  if (text.starts_with('+')) text.remove_prefix(1);
  const char prefix = base == 16 ? 'x' : base == 8 ? 'o' : base == 2 ? 'b' : '\0';
  if (prefix != '\0' && text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == prefix) {
    text.remove_prefix(2);
  }
  std::int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return value;
}

Value to_integer(const Value& operand, Given given, Budget&) {
  const Bound arguments("int", std::move(given), {"default", "base"});
  require(!operand.is_undefined(), "{}", operand.undefined_message());
  const std::int64_t base = arguments.integer(1, 10);
  require(base >= 2 && base <= 36, "int: base {} is not from 2 to 36", base);
  if (const auto integer = operand.integer()) return *integer;
  std::optional<double> real = operand.number();
  if (const auto* text = operand.string()) {
    const std::string_view digits = trim_right(trim_left(*text));
    if (const auto integer = parse_integer(digits, static_cast<int>(base))) return *integer;
    real = parse_real(digits);
  }
  if (real && std::abs(*real) < 0x1p63) return static_cast<std::int64_t>(*real);
  return arguments.has(0) ? arguments.at(0) : Value(std::int64_t{0});
}

Value to_real(const Value& operand, Given given, Budget&) {
  const Bound arguments("float", std::move(given), {"default"});
  require(!operand.is_undefined(), "{}", operand.undefined_message());
  if (const auto number = operand.number()) return *number;
  if (const auto* text = operand.string()) {
    if (const auto number = parse_real(trim_right(trim_left(*text)))) return *number;
  }
  return arguments.has(0) ? arguments.at(0) : Value(0.0);
}

Value absolute(const Value& operand, Given given, Budget&) {
  const Bound arguments("abs", std::move(given), {});
  if (const auto integer = operand.integer()) {
    require(*integer != INT64_MIN, "abs: the number is too large");
    return *integer < 0 ? -*integer : *integer;
  }
  const auto number = operand.number();
  require(number.has_value(), "abs of {}", operand.type_name());
  return std::abs(*number);
}

Value round(const Value& operand, Given given, Budget& budget) {
  budget.step(512);  // hundreds of digits may be written
  const Bound arguments("round", std::move(given), {"precision", "method"});
  const std::int64_t precision = arguments.integer(0, 0);
  const std::string method = arguments.text(1, "common");
  const auto number = operand.number();
  require(number.has_value(), "round of {}", operand.type_name());
  require(precision >= 0 && precision <= 20, "round: precision {} is not from 0 to 20", precision);
  if (method == "common") {
    if (const auto integer = operand.integer()) return *integer;
    // Decimal digits of the exact binary value, half to even: as Python rounds.
    return std::isfinite(*number) ? *parse_real(fmt::format("{:.{}f}", *number, precision))
                                  : *number;
  }
  require(method == "floor" || method == "ceil", "round: method {} is not common, floor or ceil",
          method);
  const double scale = std::pow(10.0, static_cast<double>(precision));
  return (method == "floor" ? std::floor(*number * scale) : std::ceil(*number * scale)) / scale;
}

Value length_filter(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("length", std::move(given), {});
  return length(operand, budget);
}

Value attribute(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("attr", std::move(given), {"name"});
  return get_attribute(operand, arguments.text(0, ""), budget);
}

Value unchanged(const Value& operand, Given given, Budget& budget) {
  return string(operand, std::move(given), budget);
}

}  // namespace

FilterFunction find_text_filter(const std::string& name) {
  static const std::map<std::string, FilterFunction, std::less<>> filters = {
      {"upper", changed<upper>},
      {"lower", changed<lower>},
      {"capitalize", changed<capitalize>},
      {"title", changed<titled>},
      {"trim", trim},
      {"replace", replace_filter},
      {"indent", indent},
      {"escape", escape},
      {"e", escape},
      {"string", string},
      {"safe", unchanged},
      {"tojson", tojson},
      {"default", default_value},
      {"d", default_value},
      {"int", to_integer},
      {"float", to_real},
      {"abs", absolute},
      {"round", round},
      {"length", length_filter},
      {"count", length_filter},
      {"attr", attribute}};
  const auto found = filters.find(name);
  return found == filters.end() ? nullptr : found->second;
}

}  // namespace metala::jinja
