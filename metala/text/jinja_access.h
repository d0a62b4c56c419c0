// What lies inside a value: object.name, object[key], object[a:b], and methods.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "metala/text/jinja_call.h"
#include "metala/text/jinja_value.h"

namespace metala::jinja {

// object.name: a method if the type has one of that name, else the item. Undefined when there is
// neither; Error for an undefined object.
Value get_attribute(const Value& object, std::string_view name, Budget& budget);
// object[key]: the item if there is one, else the attribute.
Value get_item(const Value& object, const Value& key, Budget& budget);
// As Python's object[start:stop:step], for strings and lists.
Value get_slice(const Value& object, std::optional<std::int64_t> start,
                std::optional<std::int64_t> stop, std::optional<std::int64_t> step, Budget& budget);
// "a.b.0" from `object`, each part as object[part]; `otherwise`, unless it is null, stands for a
// part that is undefined.
Value get_path(const Value& object, std::string_view path, const Value* otherwise, Budget& budget);

// Methods of strings, dicts, lists and loops. `name` is one that get_attribute gave.
Value call_method(const Value& self, const std::string& name, Given given, Budget& budget);
bool is_string_method(std::string_view name);
Value call_string_method(const std::string& self, const std::string& name, Given given,
                         Budget& budget);

}  // namespace metala::jinja
