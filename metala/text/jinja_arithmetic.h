// + - * / // % ** of values, as in Python.
#pragma once

#include "metala/text/jinja_ast.h"

namespace metala::jinja {

// Error for operands that do not go together, division by zero, and integers beyond 64 bits.
Value apply_binary(Binary::Operator op, const Value& left, const Value& right, Budget& budget);
Value negate(const Value& operand);

}  // namespace metala::jinja
