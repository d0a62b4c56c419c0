#include "metala/text/jinja_call.h"

#include <algorithm>

namespace metala::jinja {

void charge(const Given& given, Budget& budget) {
  for (const auto& value : given.positional) charge(value, budget);
  for (const auto& [name, value] : given.named) charge(value, budget);
}

Bound::Bound(std::string_view function, Given given,
             std::initializer_list<std::string_view> parameters)
    : function_(function),
      parameters_(parameters.begin(), parameters.end()),
      values_(parameters.size()) {
  require(given.positional.size() <= values_.size(), "{} takes at most {} arguments, not {}",
          function_, values_.size(), given.positional.size());
  std::copy(given.positional.begin(), given.positional.end(), values_.begin());
  for (auto& [name, value] : given.named) {
    const auto place = std::find(parameters_.begin(), parameters_.end(), name);
    require(place != parameters_.end(), "{} has no argument {}", function_, name);
    auto& held = values_[static_cast<std::size_t>(place - parameters_.begin())];
    require(!held.has_value(), "{} is given its argument {} twice", function_, name);
    held = std::move(value);
  }
}

const Value& Bound::at(std::size_t i) const {
  require(has(i), "{} needs its argument {}", function_, parameters_[i]);
  return *values_[i];
}

std::string Bound::text(std::size_t i, std::string_view otherwise) const {
  if (!has(i)) return std::string(otherwise);
  const auto* text = values_[i]->string();
  require(text != nullptr, "{}: its argument {} is {}, not a string", function_, parameters_[i],
          values_[i]->type_name());
  return *text;
}

std::int64_t Bound::integer(std::size_t i, std::int64_t otherwise) const {
  if (!has(i)) return otherwise;
  const auto integer = values_[i]->integer();
  require(integer.has_value(), "{}: its argument {} is {}, not an integer", function_,
          parameters_[i], values_[i]->type_name());
  return *integer;
}

bool Bound::truth(std::size_t i, bool otherwise) const {
  return has(i) ? values_[i]->truthy() : otherwise;
}

std::optional<std::string> Bound::optional_text(std::size_t i) const {
  if (!has(i) || values_[i]->is_none()) return std::nullopt;
  return text(i, "");
}

std::optional<std::int64_t> Bound::optional_integer(std::size_t i) const {
  if (!has(i) || values_[i]->is_none()) return std::nullopt;
  return integer(i, 0);
}

}  // namespace metala::jinja
