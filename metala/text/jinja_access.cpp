#include "metala/text/jinja_access.h"

#include <algorithm>

#include "metala/text/jinja_ast.h"
#include "metala/text/jinja_text.h"

namespace metala::jinja {
namespace {

bool one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool has_method(const Value& object, std::string_view name) {
  if (object.is_string()) return is_string_method(name);
  if (object.dict() != nullptr) return one_of(name, {"items", "keys", "values", "get", "copy"});
  if (object.sequence() != nullptr) return one_of(name, {"index", "count", "copy"});
  return object.get_if<std::shared_ptr<const Loop>>() != nullptr && name == "cycle";
}

// The sandbox lets nothing change; asking for such a method gives something undefined.
bool would_change(const Value& object, std::string_view name) {
  if (object.dict() != nullptr) {
    return one_of(name, {"clear", "pop", "popitem", "setdefault", "update"});
  }
  return object.sequence() != nullptr &&
         one_of(name, {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"});
}

Value missing(const Value& object, std::string_view name) {
  return Value::undefined(fmt::format("{} has no '{}'", object.type_name(), name));
}

std::optional<Value> loop_attribute(const Loop& loop, std::string_view name) {
  const auto size = static_cast<std::int64_t>(loop.items.size());
  const auto index = static_cast<std::int64_t>(loop.index);
  if (name == "index") return Value(index + 1);
  if (name == "index0") return Value(index);
  if (name == "revindex") return Value(size - index);
  if (name == "revindex0") return Value(size - index - 1);
  if (name == "first") return Value(index == 0);
  if (name == "last") return Value(index + 1 == size);
  if (name == "length") return Value(size);
  if (name == "depth")
    return Value(std::int64_t{1});  // of recursive loops, which there are none of
  if (name == "depth0") return Value(std::int64_t{0});
  if (name == "previtem") {
    return index > 0 ? loop.items[loop.index - 1] : Value::undefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index + 1 < size ? loop.items[loop.index + 1]
                            : Value::undefined("there is no next item");
  }
  return std::nullopt;
}

// Attributes that are no methods.
std::optional<Value> field(const Value& object, std::string_view name) {
  if (const auto* space = object.get_if<Namespace*>()) {
    const auto place = (*space)->attributes.find(std::string(name));
    if (place != (*space)->attributes.end()) return place->second;
  }
  if (const auto* loop = object.get_if<std::shared_ptr<const Loop>>()) {
    return loop_attribute(**loop, name);
  }
  if (const auto* callable = object.get_if<std::shared_ptr<const Callable>>()) {
    if (name == "name") return Value((*callable)->name);
  }
  return std::nullopt;
}

std::optional<Value> attribute(const Value& object, std::string_view name) {
  if (has_method(object, name)) {
    auto method = std::make_shared<Callable>();
    method->name = name;
    method->self = object;
    const Value value = std::shared_ptr<const Callable>(std::move(method));
    (void)value.depth();  // refuses one that nests too deep
    return value;
  }
  if (would_change(object, name)) {
    return Value::undefined(fmt::format("{}.{} would change it", object.type_name(), name));
  }
  return field(object, name);
}

std::optional<Value> item(const Value& object, const Value& key, Budget& budget) {
  charge(key, budget);
  if (const auto* dict = object.dict()) {
    if (!key.is_string() && !key.is_number() && !key.is_none()) return std::nullopt;
    const Value* found = dict->find(key);
    return found == nullptr ? std::nullopt : std::optional(*found);
  }
  const auto position = key.integer();
  if (!position) return std::nullopt;
  const auto* list = object.sequence();
  const auto* text = object.string();
  if (list == nullptr && text == nullptr) return std::nullopt;
  const auto size =
      list != nullptr ? static_cast<std::int64_t>(list->items.size()) : length(object, budget);
  const std::int64_t at = *position < 0 ? *position + size : *position;
  if (at < 0 || at >= size) return std::nullopt;
  if (list != nullptr) return list->items[static_cast<std::size_t>(at)];
  return get_slice(object, at, at + 1, std::nullopt, budget);
}

// The positions that a slice takes, in order.
std::vector<std::size_t> slice_positions(std::int64_t size, std::optional<std::int64_t> start,
                                         std::optional<std::int64_t> stop, std::int64_t step,
                                         Budget& budget) {
  const std::int64_t lowest = step > 0 ? 0 : -1;
  const std::int64_t highest = step > 0 ? size : size - 1;
  const auto clamp = [&](std::int64_t at) {
    return std::clamp(at < 0 ? at + size : at, lowest, highest);
  };
  std::int64_t at = start ? clamp(*start) : step > 0 ? 0 : size - 1;
  const std::int64_t end = stop ? clamp(*stop) : step > 0 ? size : -1;
  std::vector<std::size_t> positions;
  while (step > 0 ? at < end : at > end) {
    budget.items(1);
    positions.push_back(static_cast<std::size_t>(at));
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  return positions;
}

Value call_dict_method(const Dict& self, const std::string& name, Given given, Budget& budget) {
  if (name == "get") {
    const Bound arguments("get", std::move(given), {"key", "default"});
    const Value* found = self.find(arguments.at(0));
    if (found != nullptr) return *found;
    return arguments.has(1) ? arguments.at(1) : Value(None());
  }
  const Bound arguments(name, std::move(given), {});
  budget.items(self.entries.size());
  if (name == "copy") return std::make_shared<const Dict>(self);
  std::vector<Value> items;
  for (const auto& [key, value] : self.entries) {
    items.push_back(name == "keys"     ? key
                    : name == "values" ? value
                                       : make_list({key, value}, Sequence::Form::tuple));
  }
  return make_list(std::move(items));
}

Value call_list_method(const Sequence& self, const std::string& name, Given given, Budget& budget) {
  if (name == "copy") {
    const Bound arguments(name, std::move(given), {});
    budget.items(self.items.size());
    return make_list(self.items);
  }
  const Bound arguments(name, std::move(given), {"value"});
  std::int64_t found = 0;
  for (std::size_t i = 0; i < self.items.size(); ++i) {
    if (!equal(self.items[i], arguments.at(0), budget)) continue;
    if (name == "index") return static_cast<std::int64_t>(i);
    ++found;
  }
  require(name == "count", "index: the list does not hold the value");
  return found;
}

}  // namespace

Value get_attribute(const Value& object, std::string_view name, Budget& budget) {
  require(!object.is_undefined(), "{}", object.undefined_message());
  if (auto found = attribute(object, name)) return *std::move(found);
  if (object.dict() != nullptr) {
    if (auto found = item(object, std::string(name), budget)) return *std::move(found);
  }
  return missing(object, name);
}

Value get_item(const Value& object, const Value& key, Budget& budget) {
  require(!object.is_undefined(), "{}", object.undefined_message());
  if (auto found = item(object, key, budget)) return *std::move(found);
  const auto* name = key.string();
  if (name == nullptr)
    return Value::undefined(fmt::format("{} has no such item", object.type_name()));
  if (auto found = attribute(object, *name)) return *std::move(found);
  return missing(object, *name);
}

Value get_slice(const Value& object, std::optional<std::int64_t> start,
                std::optional<std::int64_t> stop, std::optional<std::int64_t> step,
                Budget& budget) {
  require(!object.is_undefined(), "{}", object.undefined_message());
  require(step != 0, "a slice's step is 0");
  const auto positions = [&](std::size_t size) {
    return slice_positions(static_cast<std::int64_t>(size), start, stop, step.value_or(1), budget);
  };
  if (const auto* list = object.sequence()) {
    std::vector<Value> items;
    for (const std::size_t i : positions(list->items.size())) items.push_back(list->items[i]);
    return make_list(std::move(items), list->form);
  }
  const auto* text = object.string();
  require(text != nullptr, "{} cannot be sliced", object.type_name());
  charge(object, budget);
  // The positions rise or fall: one walk through the text finds them all.
  auto wanted = positions(characters(*text));
  const bool falls = wanted.size() > 1 && wanted[0] > wanted[1];
  if (falls) std::reverse(wanted.begin(), wanted.end());
  std::vector<std::string_view> pieces;
  std::string_view rest = *text;
  for (std::size_t at = 0; pieces.size() < wanted.size(); ++at) {
    const std::string_view character = first_character(rest);
    if (at == wanted[pieces.size()]) pieces.push_back(character);
    rest.remove_prefix(character.size());
  }
  if (falls) std::reverse(pieces.begin(), pieces.end());
  std::string out;
  for (const auto piece : pieces) out += piece;
  return out;
}

Value get_path(const Value& object, std::string_view path, const Value* otherwise, Budget& budget) {
  Value value = object;
  budget.step(path.size() / 16);
  for (const auto& part : split(path, ".", -1)) {
    budget.step();
    const bool number = !part.empty() && part.size() < 10 &&
                        part.find_first_not_of("0123456789") == std::string::npos;
    value = get_item(value, number ? Value(std::int64_t{std::stol(part)}) : Value(part), budget);
    if (value.is_undefined() && otherwise != nullptr) value = *otherwise;
  }
  return value;
}

Value call_method(const Value& self, const std::string& name, Given given, Budget& budget) {
  if (const auto* text = self.string()) {
    return call_string_method(*text, name, std::move(given), budget);
  }
  if (const auto* dict = self.dict()) {
    return call_dict_method(*dict, name, std::move(given), budget);
  }
  if (const auto* list = self.sequence()) {
    return call_list_method(*list, name, std::move(given), budget);
  }
  const auto* loop = self.get_if<std::shared_ptr<const Loop>>();
  require(loop != nullptr && !given.positional.empty() && given.named.empty(),
          "cycle needs the values to take turns");
  return given.positional[(*loop)->index % given.positional.size()];
}

}  // namespace metala::jinja
