#include "metala/text/jinja_arithmetic.h"

#include <cmath>

namespace metala::jinja {
namespace {

using Operator = Binary::Operator;

const char* symbol(Operator op) {
  switch (op) {
    case Operator::add:
      return "+";
    case Operator::subtract:
      return "-";
    case Operator::multiply:
      return "*";
    case Operator::divide:
      return "/";
    case Operator::floor_divide:
      return "//";
    case Operator::modulo:
      return "%";
    case Operator::power:
      return "**";
  }
  return "";
}

std::int64_t whole_power(std::int64_t base, std::int64_t exponent) {
  std::int64_t result = 1;
  bool fits = true;
  if (base == 0 || base == 1) return exponent == 0 ? 1 : base;
  if (base == -1) return exponent % 2 == 0 ? 1 : -1;
  for (; fits && exponent > 0; --exponent) fits = !__builtin_mul_overflow(result, base, &result);
  require(fits, "the result of ** is too large");
  return result;
}

Value of_integers(Operator op, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  bool overflows = false;
  switch (op) {
    case Operator::add:
      overflows = __builtin_add_overflow(a, b, &result);
      break;
    case Operator::subtract:
      overflows = __builtin_sub_overflow(a, b, &result);
      break;
    case Operator::multiply:
      overflows = __builtin_mul_overflow(a, b, &result);
      break;
    case Operator::divide:
      return static_cast<double>(a) / static_cast<double>(b);
    case Operator::floor_divide:
      if (b == -1) return of_integers(Operator::subtract, 0, a);  // may be too large
      result = a / b - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0);
      break;
    case Operator::modulo:
      if (b == -1) return std::int64_t{0};
      result = a % b;
      if (result != 0 && (result < 0) != (b < 0)) result += b;
      break;
    case Operator::power:
      if (b < 0) return std::pow(static_cast<double>(a), static_cast<double>(b));
      return whole_power(a, b);
  }
  require(!overflows, "the result of {} is too large", symbol(op));
  return result;
}

Value of_reals(Operator op, double a, double b) {
  switch (op) {
    case Operator::add:
      return a + b;
    case Operator::subtract:
      return a - b;
    case Operator::multiply:
      return a * b;
    case Operator::divide:
      return a / b;
    case Operator::floor_divide:
      return std::floor(a / b);
    case Operator::modulo: {
      const double rest = std::fmod(a, b);
      return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
    }
    case Operator::power:
      return std::pow(a, b);
  }
  return {};
}

Value repeated(const Value& value, std::int64_t times, Budget& budget) {
  const auto count = static_cast<std::size_t>(std::max<std::int64_t>(0, times));
  if (const auto* text = value.string()) {
    require(text->empty() || count <= SIZE_MAX / text->size(), "* makes a string too long");
    budget.bytes(text->size() * count);
    std::string out;
    if (!text->empty()) {
      for (std::size_t i = 0; i < count; ++i) out += *text;
    }
    return out;
  }
  const auto& items = value.sequence()->items;
  require(items.empty() || count <= SIZE_MAX / items.size(), "* makes a list too long");
  budget.items(items.size() * count);
  std::vector<Value> out;
  if (!items.empty()) {
    for (std::size_t i = 0; i < count; ++i) out.insert(out.end(), items.begin(), items.end());
  }
  return make_list(std::move(out), value.sequence()->form);
}

bool repeats(const Value& value) {
  return value.is_string() || value.sequence() != nullptr;
}

}  // namespace

Value apply_binary(Operator op, const Value& left, const Value& right, Budget& budget) {
  if (left.is_number() && right.is_number()) {
    const bool divides =
        op == Operator::divide || op == Operator::floor_divide || op == Operator::modulo;
    require(!divides || *right.number() != 0, "division by zero");
    const auto a = left.integer();
    const auto b = right.integer();
    return a && b ? of_integers(op, *a, *b) : of_reals(op, *left.number(), *right.number());
  }
  if (op == Operator::add) {
    if (const auto* s = left.string(), *t = right.string(); s != nullptr && t != nullptr) {
      budget.bytes(s->size() + t->size());
      return *s + *t;
    }
    const auto *x = left.sequence(), *y = right.sequence();
    if (x != nullptr && y != nullptr && x->form == y->form) {
      budget.items(x->items.size() + y->items.size());
      std::vector<Value> items = x->items;
      items.insert(items.end(), y->items.begin(), y->items.end());
      return make_list(std::move(items), x->form);
    }
  }
  if (op == Operator::multiply) {
    if (repeats(left) && right.integer()) return repeated(left, *right.integer(), budget);
    if (repeats(right) && left.integer()) return repeated(right, *left.integer(), budget);
  }
  require(!left.is_undefined(), "{}", left.undefined_message());
  require(!right.is_undefined(), "{}", right.undefined_message());
  fail("{} {} {} does not work", left.type_name(), symbol(op), right.type_name());
}

Value negate(const Value& operand) {
  if (const auto integer = operand.integer()) return of_integers(Operator::subtract, 0, *integer);
  require(!operand.is_undefined(), "{}", operand.undefined_message());
  const auto number = operand.number();
  require(number.has_value(), "- of {} does not work", operand.type_name());
  return -*number;
}

}  // namespace metala::jinja
