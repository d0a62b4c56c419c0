#include "metala/text/jinja_value.h"

#include <algorithm>
#include <cmath>
#include <compare>

#include "metala/text/jinja_ast.h"
#include "metala/text/jinja_text.h"
#include "metala/text/utf8.h"

namespace metala::jinja {
namespace {

int checked_depth(int depth) {
  require(depth <= deepest_value, "a value nests deeper than {}", deepest_value);
  return depth;
}

// Of a key that is no string. Keys that Python finds equal get equal ones: 1, 1.0 and true.
std::string key_string(const Value& key) {
  if (const auto number = key.number()) {
    const double whole = std::trunc(*number);
    if (const auto integer = key.integer()) return fmt::format("i{}", *integer);
    if (whole == *number && std::abs(whole) < 0x1p63) {
      return fmt::format("i{}", static_cast<std::int64_t>(whole));
    }
    return fmt::format("f{}", *number);
  }
  if (key.is_undefined()) return "u";
  require(key.is_none(), "{} cannot be a key of a dict", key.type_name());
  return "n";
}

[[noreturn]] void no_order(const Value& a, const Value& b) {
  require(!a.is_undefined(), "{}", a.undefined_message());
  require(!b.is_undefined(), "{}", b.undefined_message());
  fail("{} and {} have no order", a.type_name(), b.type_name());
}

}  // namespace

Value Value::undefined(std::string what) {
  constexpr std::size_t longest = 200;  // names can be strings that a template made
  if (what.size() > longest) what = what.substr(0, valid_utf8_prefix({what.data(), longest}));
  Value value;
  value.held_ = std::make_shared<const Undefined>(Undefined{std::move(what)});
  return value;
}

Value Value::from_json(const nlohmann::ordered_json& json, int outer) {
  using Type = nlohmann::ordered_json::value_t;
  if (json.is_structured()) outer = checked_depth(outer + 1);
  switch (json.type()) {
    case Type::null:
    case Type::discarded:
    case Type::binary:
      return None();
    case Type::boolean:
      return json.get<bool>();
    case Type::number_integer:
      return json.get<std::int64_t>();
    case Type::number_unsigned:
      require(json.get<std::uint64_t>() <= INT64_MAX, "the number {} is too large for a template",
              json.get<std::uint64_t>());
      return json.get<std::int64_t>();
    case Type::number_float:
      return json.get<double>();
    case Type::string:
      return replace_invalid_utf8(json.get_ref<const std::string&>());
    case Type::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(from_json(item, outer));
      return make_list(std::move(items));
    }
    case Type::object: {
      auto dict = std::make_shared<Dict>();
      for (const auto& [key, item] : json.items()) {
        dict->set(replace_invalid_utf8(key), from_json(item, outer));
      }
      return std::shared_ptr<const Dict>(std::move(dict));
    }
  }
  return {};
}

bool Value::is_number() const {
  return get_if<bool>() != nullptr || get_if<std::int64_t>() != nullptr ||
         get_if<double>() != nullptr;
}

const std::string* Value::string() const {
  const auto* held = get_if<String>();
  return held == nullptr ? nullptr : held->get();
}

const Sequence* Value::sequence() const {
  const auto* held = get_if<std::shared_ptr<const Sequence>>();
  return held == nullptr ? nullptr : held->get();
}

const Dict* Value::dict() const {
  const auto* held = get_if<std::shared_ptr<const Dict>>();
  return held == nullptr ? nullptr : held->get();
}

std::optional<std::int64_t> Value::integer() const {
  if (const auto* integer = get_if<std::int64_t>()) return *integer;
  if (const auto* truth = get_if<bool>()) return *truth ? 1 : 0;
  return std::nullopt;
}

std::optional<double> Value::number() const {
  if (const auto* real = get_if<double>()) return *real;
  if (const auto whole = integer()) return static_cast<double>(*whole);
  return std::nullopt;
}

const std::string& Value::undefined_message() const {
  static const std::string nameless = "a value is undefined";
  const auto* held = get_if<std::shared_ptr<const Undefined>>();
  return held == nullptr || *held == nullptr ? nameless : (*held)->what;
}

const char* Value::type_name() const {
  struct Namer {
    const char* operator()(const std::shared_ptr<const Undefined>&) { return "an undefined value"; }
    const char* operator()(None) { return "none"; }
    const char* operator()(bool) { return "a bool"; }
    const char* operator()(std::int64_t) { return "an integer"; }
    const char* operator()(double) { return "a float"; }
    const char* operator()(const String&) { return "a string"; }
    const char* operator()(const std::shared_ptr<const Sequence>& list) {
      return list->form == Sequence::Form::tuple ? "a tuple" : "a list";
    }
    const char* operator()(const std::shared_ptr<const Dict>&) { return "a dict"; }
    const char* operator()(Namespace*) { return "a namespace"; }
    const char* operator()(const std::shared_ptr<const Callable>&) { return "a function"; }
    const char* operator()(const std::shared_ptr<const Loop>&) { return "a loop"; }
  };
  return std::visit(Namer(), held_);
}

bool Value::truthy() const {
  if (is_undefined() || is_none()) return false;
  if (const auto value = number()) return *value != 0;
  if (const auto* text = string()) return !text->empty();
  if (const auto* list = sequence()) {
    return list->form == Sequence::Form::generator || !list->items.empty();
  }
  if (const auto* entries = dict()) return !entries->entries.empty();
  return true;
}

int Value::depth() const {
  if (const auto* list = sequence()) return list->depth;
  if (const auto* entries = dict()) return entries->depth;
  if (const auto* loop = get_if<std::shared_ptr<const Loop>>()) return (*loop)->depth;
  if (const auto* callable = get_if<std::shared_ptr<const Callable>>()) {
    return checked_depth(1 + (*callable)->self.depth());
  }
  return 0;
}

Sequence::Sequence(std::vector<Value> values, Form kind) : items(std::move(values)), form(kind) {
  int deepest = 0;
  for (const auto& item : items) deepest = std::max(deepest, item.depth());
  depth = checked_depth(1 + deepest);
}

void Dict::set(const Value& key, Value value) {
  depth = checked_depth(std::max(depth, 1 + value.depth()));
  const auto put = [&](auto place, bool is_new) {
    if (is_new) {
      entries.emplace_back(key, std::move(value));
    } else {
      entries[place->second].second = std::move(value);
    }
  };
  if (const auto* text = key.string()) {
    const auto [place, is_new] = texts_.try_emplace(*text, entries.size());
    put(place, is_new);
  } else {
    const auto [place, is_new] = others_.try_emplace(key_string(key), entries.size());
    put(place, is_new);
  }
}

const Value* Dict::find(const Value& key) const {
  if (const auto* text = key.string()) return find(std::string_view(*text));
  const auto place = others_.find(key_string(key));
  return place == others_.end() ? nullptr : &entries[place->second].second;
}

const Value* Dict::find(std::string_view key) const {
  const auto place = texts_.find(key);
  return place == texts_.end() ? nullptr : &entries[place->second].second;
}

Value make_list(std::vector<Value> items, Sequence::Form form) {
  return std::make_shared<const Sequence>(std::move(items), form);
}

void charge(const Value& value, Budget& budget) {
  if (const auto* text = value.string()) budget.step(text->size() / 16);
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_number() && b.is_number()) {
    const auto i = a.integer();
    const auto j = b.integer();
    return i && j ? *i == *j : *a.number() == *b.number();
  }
  if (const auto* s = a.string(), *t = b.string(); s != nullptr && t != nullptr) {
    if (s->size() == t->size()) budget.step(s->size() / 64);
    return *s == *t;
  }
  if (const auto* x = a.sequence(), *y = b.sequence(); x != nullptr && y != nullptr) {
    if (x == y) return true;
    return x->form == y->form &&
           std::equal(x->items.begin(), x->items.end(), y->items.begin(), y->items.end(),
                      [&](const Value& i, const Value& j) { return equal(i, j, budget); });
  }
  if (const auto* x = a.dict(), *y = b.dict(); x != nullptr && y != nullptr) {
    if (x == y) return true;
    if (x->entries.size() != y->entries.size()) return false;
    return std::all_of(x->entries.begin(), x->entries.end(), [&](const auto& entry) {
      const Value* other = y->find(entry.first);
      return other != nullptr && equal(entry.second, *other, budget);
    });
  }
  if (a.is_undefined() || a.is_none()) return a.is_none() ? b.is_none() : b.is_undefined();
  const auto* space = a.get_if<Namespace*>();
  const auto* other = b.get_if<Namespace*>();
  return space != nullptr && other != nullptr && *space == *other;
}

int compare(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  const auto sign = [](auto order) { return order < 0 ? -1 : order > 0 ? 1 : 0; };
  if (a.is_number() && b.is_number()) {
    const auto i = a.integer();
    const auto j = b.integer();
    return i && j ? sign(*i <=> *j) : sign(*a.number() <=> *b.number());
  }
  if (const auto* s = a.string(), *t = b.string(); s != nullptr && t != nullptr) {
    budget.step(std::min(s->size(), t->size()) / 64);
    return sign(*s <=> *t);  // the order of UTF-8 is that of its characters
  }
  const auto *x = a.sequence(), *y = b.sequence();
  if (x == nullptr || y == nullptr || x->form != y->form) no_order(a, b);
  for (std::size_t i = 0; i < std::min(x->items.size(), y->items.size()); ++i) {
    if (equal(x->items[i], y->items[i], budget)) continue;
    return compare(x->items[i], y->items[i], budget);
  }
  return sign(x->items.size() <=> y->items.size());
}

std::vector<Value> iterate(const Value& value, Budget& budget) {
  std::vector<Value> items;
  if (value.is_undefined()) return items;
  if (const auto* list = value.sequence()) {
    budget.items(list->items.size());
    return list->items;
  }
  if (const auto* dict = value.dict()) {
    budget.items(dict->entries.size());
    for (const auto& entry : dict->entries) items.push_back(entry.first);
    return items;
  }
  const auto* text = value.string();
  require(text != nullptr, "{} is not a list", value.type_name());
  budget.items(text->size());
  for (const auto& c : split_characters(*text)) items.emplace_back(std::string(c));
  return items;
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  if (const auto* text = container.string()) {
    const auto* part = item.string();
    require(part != nullptr, "{} cannot be in a string", item.type_name());
    budget.step(search_steps(*text, *part));
    return text->find(*part) != std::string::npos;
  }
  if (const auto* dict = container.dict()) {
    charge(item, budget);
    return dict->find(item) != nullptr;
  }
  if (container.is_undefined()) return false;
  const auto* list = container.sequence();
  require(list != nullptr, "nothing can be in {}", container.type_name());
  return std::any_of(list->items.begin(), list->items.end(),
                     [&](const Value& other) { return equal(other, item, budget); });
}

std::int64_t length(const Value& value, Budget& budget) {
  if (value.is_undefined()) return 0;
  if (const auto* text = value.string()) {
    budget.step(text->size() / 64);
    return static_cast<std::int64_t>(characters(*text));
  }
  if (const auto* dict = value.dict()) return static_cast<std::int64_t>(dict->entries.size());
  const auto* list = value.sequence();
  require(list != nullptr && list->form != Sequence::Form::generator, "{} has no length",
          list != nullptr ? "what a filter gives" : value.type_name());
  return static_cast<std::int64_t>(list->items.size());
}

}  // namespace metala::jinja
