#include <algorithm>
#include <functional>
#include <map>

#include "metala/text/jinja_access.h"
#include "metala/text/jinja_text.h"

namespace metala::jinja {
namespace {

using Method = std::function<Value(const std::string&, Given, Budget&)>;

Value strip(const std::string& self, Given given, bool left, bool right, Budget& budget) {
  const Bound arguments("strip", std::move(given), {"chars"});
  const auto set = arguments.optional_text(0);
  if (set) budget.step(search_steps(self, *set));
  std::string_view text = self;
  if (left) text = set ? trim_left(text, *set) : trim_left(text);
  if (right) text = set ? trim_right(text, *set) : trim_right(text);
  return std::string(text);
}

// No fewer than the characters of white space in `text`, quickly counted.
std::size_t possible_spaces(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte <= 0x20 || byte == 0xC2 || (byte >= 0xE1 && byte <= 0xE3);
  }));
}

Value list_of(std::vector<std::string> parts) {
  std::vector<Value> items;
  for (auto& part : parts) items.emplace_back(std::move(part));
  return make_list(std::move(items));
}

Value split_method(const std::string& self, Given given, bool from_back, Budget& budget) {
  const Bound arguments("split", std::move(given), {"sep", "maxsplit"});
  const auto separator = arguments.optional_text(0);
  const std::int64_t most = arguments.integer(1, -1);
  if (!separator) {
    budget.items(1 + possible_spaces(self));
    return list_of(from_back ? split_from_back(self, most) : split(self, most));
  }
  require(!separator->empty(), "split: an empty separator");
  budget.step(search_steps(self, *separator));
  budget.items(1 + count(self, *separator));
  return list_of(from_back ? split_from_back(self, *separator, most)
                           : split(self, *separator, most));
}

Value at_end(const std::string& self, Given given, bool start, Budget& budget) {
  const char* const name = start ? "startswith" : "endswith";
  const Bound arguments(name, std::move(given), {"text"});
  const auto holds = [&](const Value& value) {
    charge(value, budget);
    const auto* part = value.string();
    require(part != nullptr, "{}: its argument is {}, not a string", name, value.type_name());
    return start ? self.starts_with(*part) : self.ends_with(*part);
  };
  const Value& wanted = arguments.at(0);
  const auto* any = wanted.sequence();
  if (any == nullptr) return holds(wanted);
  return std::any_of(any->items.begin(), any->items.end(), holds);
}

Value replace_method(const std::string& self, Given given, Budget& budget) {
  const Bound arguments("replace", std::move(given), {"old", "new", "count"});
  (void)arguments.at(1);
  return replace(self, arguments.text(0, ""), arguments.text(1, ""),
                 arguments.optional_integer(2).value_or(-1), budget);
}

Value join(const std::string& self, Given given, Budget& budget) {
  const Bound arguments("join", std::move(given), {"items"});
  std::string out;
  bool first = true;
  for (const auto& item : iterate(arguments.at(0), budget)) {
    const auto* text = item.string();
    require(text != nullptr, "join: an item is {}, not a string", item.type_name());
    budget.bytes(self.size() + text->size());
    if (!std::exchange(first, false)) out += self;
    out += *text;
  }
  return out;
}

Value find(const std::string& self, Given given, bool last, Budget& budget) {
  const Bound arguments("find", std::move(given), {"text"});
  const std::string part = arguments.text(0, "");
  budget.step(search_steps(self, part));
  const std::size_t at = last ? self.rfind(part) : self.find(part);
  if (at == std::string::npos) return std::int64_t{-1};
  return static_cast<std::int64_t>(characters(std::string_view(self).substr(0, at)));
}

Value remove_part(const std::string& self, Given given, bool start) {
  const Bound arguments("removeprefix", std::move(given), {"text"});
  const std::string part = arguments.text(0, "");
  if (start ? !self.starts_with(part) : !self.ends_with(part)) return self;
  return start ? self.substr(part.size()) : self.substr(0, self.size() - part.size());
}

Value plain(const std::string& self, Given given, std::string (*change)(std::string_view)) {
  const Bound arguments("a string's method", std::move(given), {});
  return change(self);
}

const std::map<std::string, Method, std::less<>>& methods() {
  static const std::map<std::string, Method, std::less<>> all = {
      {"strip", [](auto& s, Given g, Budget& b) { return strip(s, std::move(g), true, true, b); }},
      {"lstrip",
       [](auto& s, Given g, Budget& b) { return strip(s, std::move(g), true, false, b); }},
      {"rstrip",
       [](auto& s, Given g, Budget& b) { return strip(s, std::move(g), false, true, b); }},
      {"split",
       [](auto& s, Given g, Budget& b) { return split_method(s, std::move(g), false, b); }},
      {"rsplit",
       [](auto& s, Given g, Budget& b) { return split_method(s, std::move(g), true, b); }},
      {"startswith", [](auto& s, Given g, Budget& b) { return at_end(s, std::move(g), true, b); }},
      {"endswith", [](auto& s, Given g, Budget& b) { return at_end(s, std::move(g), false, b); }},
      {"replace", replace_method},
      {"join", join},
      {"find", [](auto& s, Given g, Budget& b) { return find(s, std::move(g), false, b); }},
      {"rfind", [](auto& s, Given g, Budget& b) { return find(s, std::move(g), true, b); }},
      {"removeprefix",
       [](auto& s, Given g, Budget&) { return remove_part(s, std::move(g), true); }},
      {"removesuffix",
       [](auto& s, Given g, Budget&) { return remove_part(s, std::move(g), false); }},
      {"upper", [](auto& s, Given g, Budget&) { return plain(s, std::move(g), upper); }},
      {"lower", [](auto& s, Given g, Budget&) { return plain(s, std::move(g), lower); }},
      {"title", [](auto& s, Given g, Budget&) { return plain(s, std::move(g), title); }},
      {"capitalize", [](auto& s, Given g, Budget&) { return plain(s, std::move(g), capitalize); }},
      {"count",
       [](auto& s, Given g, Budget& b) -> Value {
         const Bound arguments("count", std::move(g), {"text"});
         const std::string part = arguments.text(0, "");
         b.step(search_steps(s, part));
         return static_cast<std::int64_t>(count(s, part));
       }},
      {"splitlines",
       [](auto& s, Given g, Budget& b) {
         const Bound arguments("splitlines", std::move(g), {"keepends"});
         b.items(1 + possible_lines(s));
         return list_of(split_lines(s, arguments.truth(0, false)));
       }},
      {"isdigit",
       [](auto& s, Given g, Budget&) -> Value {
         const Bound arguments("isdigit", std::move(g), {});
         return !s.empty() && s.find_first_not_of("0123456789") == std::string::npos;
       }},
      {"isspace",
       [](auto& s, Given g, Budget&) -> Value {
         const Bound arguments("isspace", std::move(g), {});
         return !s.empty() && trim_left(s).empty();
       }},
  };
  return all;
}

}  // namespace

bool is_string_method(std::string_view name) {
  return methods().contains(name);
}

Value call_string_method(const std::string& self, const std::string& name, Given given,
                         Budget& budget) {
  budget.bytes(self.size());
  return methods().find(name)->second(self, std::move(given), budget);
}

}  // namespace metala::jinja
