// Filters that go through lists.
#include <algorithm>
#include <map>

#include "metala/text/jinja_access.h"
#include "metala/text/jinja_filters.h"
#include "metala/text/jinja_print.h"
#include "metala/text/jinja_text.h"

namespace metala::jinja {
namespace {

// An item, or what lies at a path in it when one is given: "name", "function.name", 0.
// `otherwise`, unless it is null, stands for what is undefined.
Value part_of(const Value& item, const Value* path, Budget& budget,
              const Value* otherwise = nullptr) {
  if (path == nullptr || path->is_none()) return item;
  if (const auto* text = path->string()) return get_path(item, *text, otherwise, budget);
  Value part = get_item(item, *path, budget);
  return part.is_undefined() && otherwise != nullptr ? *otherwise : part;
}

const Value* optional_at(const Bound& arguments, std::size_t i) {
  return arguments.has(i) ? &arguments.at(i) : nullptr;
}

Value case_folded(const Value& value, bool case_sensitive, Budget& budget) {
  const auto* text = value.string();
  if (case_sensitive || text == nullptr) return value;
  budget.bytes(text->size());
  return lower(*text);
}

Value generator(std::vector<Value> items) {
  return make_list(std::move(items), Sequence::Form::generator);
}

Value list(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("list", std::move(given), {});
  return make_list(iterate(operand, budget));
}

Value first(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("first", std::move(given), {});
  const auto items = iterate(operand, budget);
  return items.empty() ? Value::undefined("first of nothing") : items.front();
}

Value last(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("last", std::move(given), {});
  const auto items = iterate(operand, budget);
  return items.empty() ? Value::undefined("last of nothing") : items.back();
}

Value join(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("join", std::move(given), {"d", "attribute"});
  const std::string separator = arguments.has(0) ? to_text(arguments.at(0), budget) : "";
  std::string out;
  bool is_first = true;
  for (const auto& item : iterate(operand, budget)) {
    if (!std::exchange(is_first, false)) {
      budget.bytes(separator.size());
      out += separator;
    }
    out += to_text(part_of(item, optional_at(arguments, 1), budget), budget);
  }
  return out;
}

Value items(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("items", std::move(given), {});
  if (operand.is_undefined()) return generator({});
  require(operand.dict() != nullptr, "items of {}, not of a dict", operand.type_name());
  return generator(call_method(operand, "items", {}, budget).sequence()->items);
}

Value reverse(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("reverse", std::move(given), {});
  if (operand.is_string()) return get_slice(operand, std::nullopt, std::nullopt, -1, budget);
  auto values = iterate(operand, budget);
  std::reverse(values.begin(), values.end());
  return generator(std::move(values));
}

// Sorts `values` by `keys`, which go with them; equal keys keep their order.
void sort_by(std::vector<Value>& values, const std::vector<Value>& keys, bool descending,
             Budget& budget) {
  std::vector<std::size_t> order(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return descending ? compare(keys[b], keys[a], budget) < 0
                      : compare(keys[a], keys[b], budget) < 0;
  });
  std::vector<Value> sorted;
  for (const std::size_t i : order) sorted.push_back(values[i]);
  values = std::move(sorted);
}

Value sort(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("sort", std::move(given), {"reverse", "case_sensitive", "attribute"});
  auto values = iterate(operand, budget);
  std::vector<Value> keys;
  for (const auto& value : values) {
    keys.push_back(case_folded(part_of(value, optional_at(arguments, 2), budget),
                               arguments.truth(1, false), budget));
  }
  sort_by(values, keys, arguments.truth(0, false), budget);
  return make_list(std::move(values));
}

Value dictsort(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("dictsort", std::move(given), {"case_sensitive", "by", "reverse"});
  require(operand.dict() != nullptr, "dictsort of {}, not of a dict", operand.type_name());
  const std::string by = arguments.text(1, "key");
  require(by == "key" || by == "value", "dictsort by {}, not key or value", by);
  auto values = call_method(operand, "items", {}, budget).sequence()->items;
  std::vector<Value> keys;
  for (const auto& pair : values) {
    keys.push_back(case_folded(pair.sequence()->items[by == "key" ? 0 : 1],
                               arguments.truth(0, false), budget));
  }
  sort_by(values, keys, arguments.truth(2, false), budget);
  return make_list(std::move(values));
}

Value unique(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("unique", std::move(given), {"case_sensitive", "attribute"});
  std::vector<Value> values;
  Dict seen;
  for (const auto& item : iterate(operand, budget)) {
    const Value key = case_folded(part_of(item, optional_at(arguments, 1), budget),
                                  arguments.truth(0, false), budget);
    charge(key, budget);
    if (seen.find(key) != nullptr) continue;
    seen.set(key, true);
    values.push_back(item);
  }
  return generator(std::move(values));
}

Value extreme(const Value& operand, Given given, int wanted, Budget& budget) {
  const Bound arguments("min or max", std::move(given), {"case_sensitive", "attribute"});
  Value best = Value::undefined("the least or most of nothing");
  Value best_key;
  bool any = false;
  for (const auto& item : iterate(operand, budget)) {
    const Value key = case_folded(part_of(item, optional_at(arguments, 1), budget),
                                  arguments.truth(0, false), budget);
    if (std::exchange(any, true) && compare(key, best_key, budget) != wanted) continue;
    best = item;
    best_key = key;
  }
  return best;
}

Value least(const Value& operand, Given given, Budget& budget) {
  return extreme(operand, std::move(given), -1, budget);
}

Value most(const Value& operand, Given given, Budget& budget) {
  return extreme(operand, std::move(given), 1, budget);
}

Value sum(const Value& operand, Given given, Budget& budget) {
  const Bound arguments("sum", std::move(given), {"attribute", "start"});
  std::int64_t whole = arguments.integer(1, 0);
  double real = 0;
  bool is_real = false;
  for (const auto& item : iterate(operand, budget)) {
    const Value part = part_of(item, optional_at(arguments, 0), budget);
    const auto number = part.number();
    require(number.has_value(), "sum: an item is {}", part.type_name());
    if (const auto integer = part.integer(); integer && !is_real) {
      require(!__builtin_add_overflow(whole, *integer, &whole), "sum: the number is too large");
      continue;
    }
    if (!std::exchange(is_real, true)) real = static_cast<double>(whole);
    real += *number;
  }
  return is_real ? Value(real) : Value(whole);
}

// map(attribute="path", default=value) or map("filter", arguments...).
Value map(const Value& operand, Given given, Budget& budget) {
  if (!operand.truthy()) return generator({});  // none too
  std::vector<Value> values;
  if (given.positional.empty()) {
    const Bound arguments("map", std::move(given), {"attribute", "default"});
    for (const auto& item : iterate(operand, budget)) {
      values.push_back(part_of(item, &arguments.at(0), budget, optional_at(arguments, 1)));
    }
    return generator(std::move(values));
  }
  const auto* filter = given.positional[0].string();
  require(filter != nullptr, "map: its first argument is not the name of a filter");
  const std::string name = *filter;
  given.positional.erase(given.positional.begin());
  const Budget::Level level(budget);
  for (const auto& item : iterate(operand, budget)) {
    values.push_back(apply_filter(name, item, given, budget));
  }
  return generator(std::move(values));
}

// Items, or items with an attribute, that pass a test: select("test", ...), selectattr("path",
// "test", ...). Without a test: that are true.
Value selected(const Value& operand, Given given, bool by_attribute, bool wanted, Budget& budget) {
  if (!operand.truthy()) return generator({});  // none too
  std::optional<Value> path;
  if (by_attribute) {
    require(!given.positional.empty(), "selectattr and rejectattr need an attribute");
    path = given.positional[0];
    given.positional.erase(given.positional.begin());
  }
  std::string test;
  if (!given.positional.empty()) {
    const auto* name = given.positional[0].string();
    require(name != nullptr, "the test of select or reject is not named by a string");
    test = *name;
    given.positional.erase(given.positional.begin());
  }
  std::vector<Value> values;
  for (const auto& item : iterate(operand, budget)) {
    const Value part = part_of(item, path ? &*path : nullptr, budget);
    const bool passes = test.empty() ? part.truthy() : apply_test(test, part, given, budget);
    if (passes == wanted) values.push_back(item);
  }
  return generator(std::move(values));
}

template <bool by_attribute, bool wanted>
Value select(const Value& operand, Given given, Budget& budget) {
  return selected(operand, std::move(given), by_attribute, wanted, budget);
}

}  // namespace

FilterFunction find_list_filter(const std::string& name) {
  static const std::map<std::string, FilterFunction, std::less<>> filters = {
      {"list", list},
      {"first", first},
      {"last", last},
      {"join", join},
      {"items", items},
      {"reverse", reverse},
      {"sort", sort},
      {"dictsort", dictsort},
      {"unique", unique},
      {"min", least},
      {"max", most},
      {"sum", sum},
      {"map", map},
      {"select", select<false, true>},
      {"reject", select<false, false>},
      {"selectattr", select<true, true>},
      {"rejectattr", select<true, false>}};
  const auto found = filters.find(name);
  return found == filters.end() ? nullptr : found->second;
}

}  // namespace metala::jinja
