#include "metala/text/jinja_filters.h"

#include <cmath>
#include <map>

#include "metala/text/jinja_text.h"

namespace metala::jinja {
namespace {

const Value& only_argument(const std::string& name, const Given& given) {
  require(given.positional.size() == 1 && given.named.empty(), "test {} takes one argument", name);
  return given.positional[0];
}

bool divisible(const std::string& name, const Value& value, const Value& divisor) {
  for (const Value* operand : {&value, &divisor}) {
    require(operand->is_number(), "test {} on {}, not a number", name, operand->type_name());
  }
  require(*divisor.number() != 0, "test {} by 0", name);
  const auto a = value.integer(), b = divisor.integer();
  if (a && b) return *b == -1 || *a % *b == 0;
  return std::fmod(*value.number(), *divisor.number()) == 0;
}

bool is_iterable(const Value& value) {
  return value.is_string() || value.is_undefined() || value.sequence() != nullptr ||
         value.dict() != nullptr;
}

// Of 3, -1 and 3.0; neither 2 nor 2.5.
bool is_odd(const Value& value) {
  if (divisible("odd", value, std::int64_t{2})) return false;
  return divisible("odd", value, std::int64_t{1});
}

using PlainTest = bool (*)(const Value&);

const std::map<std::string, PlainTest, std::less<>>& plain_tests() {
  static const std::map<std::string, PlainTest, std::less<>> tests = {
      {"defined", [](const Value& v) { return !v.is_undefined(); }},
      {"undefined", [](const Value& v) { return v.is_undefined(); }},
      {"none", [](const Value& v) { return v.is_none(); }},
      {"string", [](const Value& v) { return v.is_string(); }},
      {"mapping", [](const Value& v) { return v.dict() != nullptr; }},
      {"iterable", is_iterable},
      {"sequence",
       [](const Value& v) {
         const auto* list = v.sequence();
         return list != nullptr ? list->form != Sequence::Form::generator : is_iterable(v);
       }},
      {"boolean", [](const Value& v) { return v.get_if<bool>() != nullptr; }},
      {"true", [](const Value& v) { return v.get_if<bool>() != nullptr && v.truthy(); }},
      {"false", [](const Value& v) { return v.get_if<bool>() != nullptr && !v.truthy(); }},
      {"number", [](const Value& v) { return v.is_number(); }},
      {"integer", [](const Value& v) { return v.get_if<std::int64_t>() != nullptr; }},
      {"float", [](const Value& v) { return v.get_if<double>() != nullptr; }},
      {"callable",
       [](const Value& v) { return v.get_if<std::shared_ptr<const Callable>>() != nullptr; }},
      {"even", [](const Value& v) { return divisible("even", v, std::int64_t{2}); }},
      {"odd", is_odd},
      {"lower",
       [](const Value& v) {
         const auto* text = v.string();
         return text != nullptr && lower(*text) == *text && upper(*text) != *text;
       }},
      {"upper",
       [](const Value& v) {
         const auto* text = v.string();
         return text != nullptr && upper(*text) == *text && lower(*text) != *text;
       }},
  };
  return tests;
}

}  // namespace

Value apply_filter(const std::string& name, const Value& operand, Given given, Budget& budget) {
  FilterFunction filter = find_text_filter(name);
  if (filter == nullptr) filter = find_list_filter(name);
  require(filter != nullptr, "there is no filter '{}'", name);
  charge(operand, budget);
  charge(given, budget);
  return filter(operand, std::move(given), budget);
}

bool apply_test(const std::string& name, const Value& operand, Given given, Budget& budget) {
  budget.step();
  charge(operand, budget);
  charge(given, budget);
  if (const auto plain = plain_tests().find(name); plain != plain_tests().end()) {
    require(given.positional.empty() && given.named.empty(), "test {} takes no arguments", name);
    return plain->second(operand);
  }
  const auto is = [&](std::initializer_list<const char*> names) {
    for (const char* one : names) {
      if (name == one) return true;
    }
    return false;
  };
  if (is({"eq", "equalto", "=="})) return equal(operand, only_argument(name, given), budget);
  if (is({"ne", "!="})) return !equal(operand, only_argument(name, given), budget);
  if (is({"lt", "lessthan", "<"})) return compare(operand, only_argument(name, given), budget) < 0;
  if (is({"le", "<="})) return compare(operand, only_argument(name, given), budget) <= 0;
  if (is({"gt", "greaterthan", ">"})) {
    return compare(operand, only_argument(name, given), budget) > 0;
  }
  if (is({"ge", ">="})) return compare(operand, only_argument(name, given), budget) >= 0;
  if (is({"in"})) return contains(only_argument(name, given), operand, budget);
  if (is({"divisibleby"})) return divisible(name, operand, only_argument(name, given));
  if (is({"sameas"})) {
    const Value& other = only_argument(name, given);
    const bool same_type = std::string_view(operand.type_name()) == other.type_name();
    return same_type && equal(operand, other, budget);
  }
  fail("there is no test '{}'", name);
}

}  // namespace metala::jinja
