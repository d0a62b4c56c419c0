// Renders a parsed template once.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <unordered_map>

#include "metala/text/jinja_ast.h"
#include "metala/text/jinja_call.h"
#include "metala/text/jinja_template.h"

namespace metala::jinja {

// Names and their values; a name that is not here is looked for outside.
struct Scope {
  std::unordered_map<std::string, Value> names;
  std::shared_ptr<Scope> outer;
};

class Evaluator {
 public:
  Evaluator(const nlohmann::ordered_json& variables, const RenderOptions& options);

  std::string run(const Body& body);
  int line() const { return line_; }  // where it stands

 private:
  enum class Flow { on, stop_loop, next_item };
  class Within;  // a scope entered for a while

  // Statements
  Flow execute(const Body& body);
  Flow on(const Text& node);
  Flow on(const Output& node);
  Flow on(const If& node);
  Flow on(const For& node);
  Flow on(const Set& node);
  Flow on(const SetBlock& node);
  Flow on(const Macro& node);
  Flow on(const CallBlock& node);
  Flow on(const FilterBlock& node);
  Flow on(const Scoped& node);
  Flow on(const LoopJump& node);

  Value bound(const Macro& macro) const;  // a macro as it is seen from here
  void emit(std::string_view text);
  // What the body prints, instead of printing it.
  std::string captured(const Body& body);
  void assign(const Target& target, Value value);
  std::vector<Value> loop_items(const For& node);

  // Expressions
  Value evaluate(const Expression& expression);
  Value on(const Constant& node);
  Value on(const Name& node);
  Value on(const ListOf& node);
  Value on(const DictOf& node);
  Value on(const Unary& node);
  Value on(const Binary& node);
  Value on(const Concatenation& node);
  Value on(const Logical& node);
  Value on(const Comparison& node);
  Value on(const Conditional& node);
  Value on(const Attribute& node);
  Value on(const Item& node);
  Value on(const Slice& node);
  Value on(const Call& node);
  Value on(const Filter& node);
  Value on(const Test& node);

  bool holds(Comparison::Operator op, const Value& left, const Value& right);
  Given evaluate(const Arguments& arguments);
  Value call(const Value& callee, Given given);
  Value call_macro(const Callable& callable, Given given);

  // Functions that templates can call
  Value call_function(const std::string& name, Given given);
  Value range(Given given);
  Value make_namespace(Given given);
  Value make_dict(Given given);
  Value strftime_now(Given given);

  Budget budget_;
  std::optional<std::time_t> now_;
  std::deque<Namespace> namespaces_;
  std::shared_ptr<Scope> scope_;
  std::string* out_ = nullptr;
  Value block_text_;  // operand of a filter block's first filter
  int line_ = 1;
};

}  // namespace metala::jinja
