// A parsed template. Expressions and statements are trees whose nodes know their line.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "metala/text/jinja_value.h"

namespace metala::jinja {

struct Expression;
struct Statement;
struct Scope;
using ExpressionPtr = std::unique_ptr<Expression>;
using StatementPtr = std::unique_ptr<Statement>;
using Body = std::vector<StatementPtr>;

struct Arguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr list, dict;  // *list, **dict; absent ones are null
};

struct Constant {
  Value value;
};
struct Name {
  std::string name;
};
struct ListOf {
  Sequence::Form form;
  std::vector<ExpressionPtr> items;
};
struct DictOf {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries;
};
struct Unary {
  enum class Operator { negative, positive, logical_not } op;
  ExpressionPtr operand;
};
struct Binary {
  enum class Operator { add, subtract, multiply, divide, floor_divide, modulo, power };
  Operator op;
  ExpressionPtr left, right;
};
struct Concatenation {  // ~
  std::vector<ExpressionPtr> parts;
};
struct Logical {
  bool is_and;
  ExpressionPtr left, right;
};
struct Comparison {  // a < b <= c holds when both do
  enum class Operator { eq, ne, lt, le, gt, ge, in, not_in };
  ExpressionPtr first;
  std::vector<std::pair<Operator, ExpressionPtr>> rest;
};
struct Conditional {  // without otherwise: undefined
  ExpressionPtr condition, value, otherwise;
};
struct Attribute {  // object.name
  ExpressionPtr object;
  std::string name;
};
struct Item {  // object[key]
  ExpressionPtr object, key;
};
struct Slice {  // object[start:stop:step]; absent parts are null
  ExpressionPtr object, start, stop, step;
};
struct Call {
  ExpressionPtr callee;
  Arguments arguments;
};
struct Filter {  // operand | name(arguments); a null operand is the text of a block
  ExpressionPtr operand;
  std::string name;
  Arguments arguments;
};
struct Test {  // operand is name(arguments)
  ExpressionPtr operand;
  std::string name;
  Arguments arguments;
  bool negated;
};

struct Expression {
  int line;
  std::variant<Constant, Name, ListOf, DictOf, Unary, Binary, Concatenation, Logical, Comparison,
               Conditional, Attribute, Item, Slice, Call, Filter, Test>
      node;
};

// What a for or a set gives values to: one name, `space.name`, or several names.
struct Target {
  std::vector<std::string> names;
  std::string space;  // of a namespace's attribute
  bool unpacks = false;
};

struct Text {
  std::string text;
};
struct Output {
  ExpressionPtr value;
};
struct If {
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  Body otherwise;
};
struct For {
  Target target;
  ExpressionPtr iterable, condition;  // condition may be null
  Body body, otherwise;
};
struct Set {
  Target target;
  ExpressionPtr value;
};
struct SetBlock {  // the text of its body, through `filter` unless it is null
  Target target;
  ExpressionPtr filter;
  Body body;
};
struct Macro {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // default may be null
  Body body;
};
struct CallBlock {  // the call's macro can print the body, as caller(...)
  Macro caller;
  ExpressionPtr call;
};
struct FilterBlock {
  ExpressionPtr filter;
  Body body;
};
struct Scoped {  // with, generation: names set within are gone after it
  std::vector<std::pair<Target, ExpressionPtr>> values;
  Body body;
};
struct LoopJump {
  bool is_break;
};

struct Statement {
  int line;
  std::variant<Text, Output, If, For, Set, SetBlock, Macro, CallBlock, FilterBlock, Scoped,
               LoopJump>
      node;
};

// What a name in a template can be called for, beside macros: a string's or dict's method, or a
// function of the renderer.
struct Callable {
  std::string name;
  Value self;                    // of a method; otherwise undefined
  const Macro* macro = nullptr;  // of a macro
  std::weak_ptr<Scope> defined;  // where the macro looks names up
};

}  // namespace metala::jinja
