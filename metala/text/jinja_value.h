// What a template computes with: Python's values, as far as chat templates see them.
//
// Values are cheap to copy and never change (the sandbox that templates are written for forbids
// append and update), so lists and dicts are shared. Only a namespace changes; the renderer owns
// it, so values never form a cycle of ownership. A container knows how deep it nests: walking or
// freeing one recurses no deeper than `deepest_value`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "metala/text/jinja_budget.h"

namespace metala::jinja {

constexpr int deepest_value = 100;

struct Sequence;
struct Dict;
struct Namespace;
struct Callable;
struct Loop;

struct Undefined {
  std::string what;  // "'x' is undefined": the message for who uses it as more than nothing
};
struct None {};

class Value {
 public:
  using String = std::shared_ptr<const std::string>;
  using Held =
      std::variant<std::shared_ptr<const Undefined>, None, bool, std::int64_t, double, String,
                   std::shared_ptr<const Sequence>, std::shared_ptr<const Dict>, Namespace*,
                   std::shared_ptr<const Callable>, std::shared_ptr<const Loop>>;

  Value() = default;  // undefined, without a name
  Value(None none) : held_(none) {}
  Value(bool truth) : held_(truth) {}
  Value(std::int64_t number) : held_(number) {}
  Value(double number) : held_(number) {}
  Value(std::string text) : held_(std::make_shared<const std::string>(std::move(text))) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(Namespace* space) : held_(space) {}
  Value(std::shared_ptr<const Sequence> list) : held_(std::move(list)) {}
  Value(std::shared_ptr<const Dict> dict) : held_(std::move(dict)) {}
  Value(std::shared_ptr<const Callable> callable) : held_(std::move(callable)) {}
  Value(std::shared_ptr<const Loop> loop) : held_(std::move(loop)) {}
  template <class T>
  Value(T) = delete;  // no other number or pointer turns into a bool by accident

  static Value undefined(std::string what);  // the message is cut where it is long
  // Error when the JSON, within so many values `outer`, nests deeper than a value may.
  static Value from_json(const nlohmann::ordered_json& json, int outer = 0);

  template <class T>
  const T* get_if() const {
    return std::get_if<T>(&held_);
  }
  bool is_undefined() const { return held_.index() == 0; }
  bool is_none() const { return get_if<None>() != nullptr; }
  bool is_string() const { return get_if<String>() != nullptr; }
  bool is_number() const;  // bool, integer or float, as in Python
  // Null unless the value is one.
  const std::string* string() const;
  const Sequence* sequence() const;
  const Dict* dict() const;
  std::optional<std::int64_t> integer() const;  // of an integer or a bool
  std::optional<double> number() const;         // of any number

  // The message for using an undefined value.
  const std::string& undefined_message() const;
  // As errors name it: "a string", "a list".
  const char* type_name() const;
  bool truthy() const;
  int depth() const;  // 0 unless the value holds others

 private:
  Held held_;
};

// A list, a tuple, or what filters such as `select` give: always true, without a length.
struct Sequence {
  enum class Form { list, tuple, generator };
  Sequence(std::vector<Value> values, Form kind);
  std::vector<Value> items;
  Form form;
  int depth;
};

// In the order of insertion; a key is a string, a number, a bool, none or undefined.
struct Dict {
  Dict() = default;
  Dict(const Dict&) = default;  // the copy's keys are the same strings
  Dict& operator=(const Dict&) = default;

  void set(const Value& key, Value value);
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;

  std::vector<std::pair<Value, Value>> entries;
  int depth = 1;

 private:
  std::unordered_map<std::string_view, std::size_t> texts_;  // views of the keys in `entries`
  std::unordered_map<std::string, std::size_t> others_;
};

struct Namespace {
  std::unordered_map<std::string, Value> attributes;
};

// `loop` inside of a for.
struct Loop {
  std::vector<Value> items;
  std::size_t index = 0;
  int depth = 1;
};

Value make_list(std::vector<Value> items, Sequence::Form form = Sequence::Form::list);

// Charges for going through the bytes of a string once, whatever is done with them; other values
// are free.
void charge(const Value& value, Budget& budget);

// Python's ==, and its order of numbers, strings and lists; Error for a pair without an order.
bool equal(const Value& a, const Value& b, Budget& budget);
int compare(const Value& a, const Value& b, Budget& budget);

// The items that a `for` visits: of a list, a dict's keys, a string's characters, nothing of
// undefined. Error for anything else.
std::vector<Value> iterate(const Value& value, Budget& budget);
bool contains(const Value& container, const Value& item, Budget& budget);
// Error unless the value has one.
std::int64_t length(const Value& value, Budget& budget);

}  // namespace metala::jinja
