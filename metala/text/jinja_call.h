// Arguments of a call, and what a filter or method makes of them.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "metala/text/jinja_value.h"

namespace metala::jinja {

struct Given {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Charges for what is given.
void charge(const Given& given, Budget& budget);

// Arguments in the order of a function's parameters. Error for one too many, unknown or twice.
class Bound {
 public:
  Bound(std::string_view function, Given given, std::initializer_list<std::string_view> parameters);

  bool has(std::size_t i) const { return values_[i].has_value(); }
  // The argument; Error when it was not given.
  const Value& at(std::size_t i) const;
  // The argument, or `otherwise` when it was not given; Error for another type.
  std::string text(std::size_t i, std::string_view otherwise) const;
  std::int64_t integer(std::size_t i, std::int64_t otherwise) const;
  bool truth(std::size_t i, bool otherwise) const;
  // Not given and none are alike here.
  std::optional<std::string> optional_text(std::size_t i) const;
  std::optional<std::int64_t> optional_integer(std::size_t i) const;

 private:
  std::string function_;
  std::vector<std::string> parameters_;
  std::vector<std::optional<Value>> values_;
};

}  // namespace metala::jinja
