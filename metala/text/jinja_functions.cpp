// The functions that the environment gives to templates.
#include <ctime>

#include "metala/text/jinja_evaluator.h"
#include "metala/text/jinja_print.h"
#include "metala/text/utf8.h"

namespace metala::jinja {

Value Evaluator::call_function(const std::string& name, Given given) {
  if (name == "range") return range(std::move(given));
  if (name == "namespace") return make_namespace(std::move(given));
  if (name == "dict") return make_dict(std::move(given));
  if (name == "strftime_now") return strftime_now(std::move(given));
  const Bound arguments("raise_exception", std::move(given), {"message"});
  fail("the template refuses these messages: {}", to_text(arguments.at(0), budget_));
}

Value Evaluator::range(Given given) {
  const Bound arguments("range", std::move(given), {"start", "stop", "step"});
  const bool one = !arguments.has(1);
  (void)arguments.at(0);
  const std::int64_t start = one ? 0 : arguments.integer(0, 0);
  const std::int64_t stop = arguments.integer(one ? 0 : 1, 0);
  const std::int64_t step = arguments.integer(2, 1);
  require(step != 0, "range: the step is 0");
  constexpr std::size_t longest = 100'000;  // the reference's sandbox refuses more
  std::vector<Value> items;
  for (std::int64_t i = start; step > 0 ? i < stop : i > stop;) {
    require(items.size() < longest, "range: more than {} numbers", longest);
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  budget_.items(items.size());
  return make_list(std::move(items));
}

Value Evaluator::make_dict(Given given) {
  auto dict = std::make_shared<Dict>();
  require(given.positional.size() <= 1, "dict takes one argument beside named ones");
  if (!given.positional.empty()) {
    const Value& from = given.positional[0];
    if (const auto* other = from.dict()) {
      budget_.items(other->entries.size());
      *dict = *other;
    } else {
      for (const auto& pair : iterate(from, budget_)) {
        const auto parts = iterate(pair, budget_);
        require(parts.size() == 2, "dict: an item is not a pair");
        charge(parts[0], budget_);
        dict->set(parts[0], parts[1]);
      }
    }
  }
  budget_.items(given.named.size());
  for (auto& [name, value] : given.named) dict->set(name, std::move(value));
  return std::shared_ptr<const Dict>(std::move(dict));
}

Value Evaluator::make_namespace(Given given) {
  const Value entries = make_dict(std::move(given));
  budget_.items(2);  // it stays to the end
  Namespace& space = namespaces_.emplace_back();
  for (const auto& [key, value] : entries.dict()->entries) {
    require(key.is_string(), "namespace: {} is not a name", key.type_name());
    space.attributes[*key.string()] = value;
  }
  return &space;
}

Value Evaluator::strftime_now(Given given) {
  const Bound arguments("strftime_now", std::move(given), {"format"});
  (void)arguments.at(0);
  const std::string format = arguments.text(0, "");
  require(format.size() <= 256 && format.find('\0') == std::string::npos,
          "strftime_now: a format longer than 256 bytes, or with a zero byte");
  const std::time_t now = now_.value_or(std::time(nullptr));
  std::tm local{};
  localtime_r(&now, &local);
  char text[4096];
  const std::size_t size = std::strftime(text, sizeof text, format.c_str(), &local);
  return replace_invalid_utf8({text, size});
}

}  // namespace metala::jinja
