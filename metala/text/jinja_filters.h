// value | name(arguments) and value is name(arguments).
#pragma once

#include <string>

#include "metala/text/jinja_call.h"
#include "metala/text/jinja_value.h"

namespace metala::jinja {

// Error for a filter or test that does not exist and for operands or arguments that do not fit.
Value apply_filter(const std::string& name, const Value& operand, Given given, Budget& budget);
bool apply_test(const std::string& name, const Value& operand, Given given, Budget& budget);

// A part of the table of filters: null when it does not have `name`.
using FilterFunction = Value (*)(const Value& operand, Given given, Budget& budget);
FilterFunction find_text_filter(const std::string& name);
FilterFunction find_list_filter(const std::string& name);

}  // namespace metala::jinja
