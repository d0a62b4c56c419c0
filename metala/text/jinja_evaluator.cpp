#include "metala/text/jinja_evaluator.h"

#include <algorithm>
#include <iterator>

#include "metala/text/jinja_access.h"
#include "metala/text/jinja_arithmetic.h"
#include "metala/text/jinja_filters.h"
#include "metala/text/jinja_print.h"

namespace metala::jinja {

class Evaluator::Within {
 public:
  Within(Evaluator& evaluator, std::shared_ptr<Scope> outer)
      : evaluator_(evaluator), before_(evaluator.scope_) {
    evaluator_.scope_ = std::make_shared<Scope>();
    evaluator_.scope_->outer = std::move(outer);
  }
  explicit Within(Evaluator& evaluator) : Within(evaluator, evaluator.scope_) {}
  ~Within() { evaluator_.scope_ = std::move(before_); }
  Within(const Within&) = delete;
  Within& operator=(const Within&) = delete;

 private:
  Evaluator& evaluator_;
  std::shared_ptr<Scope> before_;
};

Evaluator::Evaluator(const nlohmann::ordered_json& variables, const RenderOptions& options)
    : budget_(options.limits), now_(options.now), scope_(std::make_shared<Scope>()) {
  for (const char* name : {"range", "namespace", "dict", "raise_exception", "strftime_now"}) {
    auto function = std::make_shared<Callable>();
    function->name = name;
    scope_->names[name] = std::shared_ptr<const Callable>(std::move(function));
  }
  require(variables.is_object(), "the variables are not an object");
  for (const auto& [name, value] : variables.items()) {
    scope_->names[name] = Value::from_json(value);
  }
}

std::string Evaluator::run(const Body& body) {
  return captured(body);
}

// --- statements ---

Evaluator::Flow Evaluator::execute(const Body& body) {
  const Budget::Level level(budget_);
  for (const auto& statement : body) {
    budget_.step();
    line_ = statement->line;
    const Flow flow = std::visit([this](const auto& node) { return on(node); }, statement->node);
    if (flow != Flow::on) return flow;
  }
  return Flow::on;
}

void Evaluator::emit(std::string_view text) {
  budget_.bytes(text.size());
  *out_ += text;
}

std::string Evaluator::captured(const Body& body) {
  std::string text;
  std::string* const before = std::exchange(out_, &text);
  execute(body);
  out_ = before;
  return text;
}

Evaluator::Flow Evaluator::on(const Text& node) {
  emit(node.text);
  return Flow::on;
}

Evaluator::Flow Evaluator::on(const Output& node) {
  const Value value = evaluate(*node.value);
  if (const auto* text = value.string()) {
    emit(*text);
  } else {
    *out_ += to_text(value, budget_);
  }
  return Flow::on;
}

Evaluator::Flow Evaluator::on(const If& node) {
  for (const auto& [condition, body] : node.branches) {
    if (evaluate(*condition).truthy()) return execute(body);
  }
  return execute(node.otherwise);
}

std::vector<Value> Evaluator::loop_items(const For& node) {
  std::vector<Value> items = iterate(evaluate(*node.iterable), budget_);
  if (!node.condition) return items;
  std::vector<Value> kept;
  for (auto& item : items) {
    const Within within(*this);
    assign(node.target, item);
    if (evaluate(*node.condition).truthy()) kept.push_back(std::move(item));
  }
  return kept;
}

Evaluator::Flow Evaluator::on(const For& node) {
  auto loop = std::make_shared<Loop>();
  loop->items = loop_items(node);
  bool one_ended = false;  // by itself: after continue and break the reference takes the else
  for (const auto& item : loop->items) loop->depth = std::max(loop->depth, 1 + item.depth());
  for (; loop->index < loop->items.size(); ++loop->index) {
    const Within within(*this);
    assign(node.target, loop->items[loop->index]);
    scope_->names["loop"] = std::shared_ptr<const Loop>(loop);
    const Flow flow = execute(node.body);
    one_ended = one_ended || flow == Flow::on;
    if (flow == Flow::stop_loop) break;
  }
  return one_ended ? Flow::on : execute(node.otherwise);
}

void Evaluator::assign(const Target& target, Value value) {
  if (!target.space.empty()) {
    const Value held = on(Name{target.space});
    const auto* space = held.get_if<Namespace*>();
    require(space != nullptr, "{}.{} cannot be set: {} is {}, not a namespace", target.space,
            target.names[0], target.space, held.type_name());
    (*space)->attributes[target.names[0]] = std::move(value);
    return;
  }
  if (!target.unpacks) {
    scope_->names[target.names[0]] = std::move(value);
    return;
  }
  auto parts = iterate(value, budget_);
  require(parts.size() == target.names.size(), "{} values for {} names", parts.size(),
          target.names.size());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    scope_->names[target.names[i]] = std::move(parts[i]);
  }
}

Evaluator::Flow Evaluator::on(const Set& node) {
  assign(node.target, evaluate(*node.value));
  return Flow::on;
}

Evaluator::Flow Evaluator::on(const SetBlock& node) {
  Value value;
  {
    const Within within(*this);
    value = captured(node.body);
  }
  if (node.filter) {
    block_text_ = std::move(value);
    value = evaluate(*node.filter);
  }
  assign(node.target, std::move(value));
  return Flow::on;
}

Value Evaluator::bound(const Macro& macro) const {
  auto callable = std::make_shared<Callable>();
  callable->name = macro.name;
  callable->macro = &macro;
  callable->defined = scope_;
  return std::shared_ptr<const Callable>(std::move(callable));
}

Evaluator::Flow Evaluator::on(const Macro& node) {
  scope_->names[node.name] = bound(node);
  return Flow::on;
}

Evaluator::Flow Evaluator::on(const CallBlock& node) {
  const int line = line_;
  const Call& called = std::get<Call>(node.call->node);
  const Value callee = evaluate(*called.callee);
  Given given = evaluate(called.arguments);
  given.named.emplace_back("caller", bound(node.caller));
  line_ = line;
  emit(to_text(call(callee, std::move(given)), budget_));
  return Flow::on;
}

Evaluator::Flow Evaluator::on(const FilterBlock& node) {
  {
    const Within within(*this);
    block_text_ = captured(node.body);
  }
  emit(to_text(evaluate(*node.filter), budget_));
  return Flow::on;
}

Evaluator::Flow Evaluator::on(const Scoped& node) {
  std::vector<Value> values;
  for (const auto& entry : node.values) values.push_back(evaluate(*entry.second));
  const Within within(*this);
  for (std::size_t i = 0; i < values.size(); ++i) {
    assign(node.values[i].first, std::move(values[i]));
  }
  return execute(node.body);
}

Evaluator::Flow Evaluator::on(const LoopJump& node) {
  return node.is_break ? Flow::stop_loop : Flow::next_item;
}

// --- expressions ---

Value Evaluator::evaluate(const Expression& expression) {
  const Budget::Level level(budget_);
  budget_.step();
  line_ = expression.line;
  Value value = std::visit([this](const auto& node) { return on(node); }, expression.node);
  return value;
}

Value Evaluator::on(const Constant& node) {
  return node.value;
}

Value Evaluator::on(const Name& node) {
  for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->outer.get()) {
    budget_.step();
    const auto found = scope->names.find(node.name);
    if (found != scope->names.end()) return found->second;
  }
  return Value::undefined(fmt::format("'{}' is undefined", node.name));
}

Value Evaluator::on(const ListOf& node) {
  budget_.items(node.items.size());
  std::vector<Value> items;
  for (const auto& item : node.items) items.push_back(evaluate(*item));
  return make_list(std::move(items), node.form);
}

Value Evaluator::on(const DictOf& node) {
  budget_.items(node.entries.size());
  auto dict = std::make_shared<Dict>();
  for (const auto& [key, value] : node.entries) {
    const Value evaluated_key = evaluate(*key);
    charge(evaluated_key, budget_);
    dict->set(evaluated_key, evaluate(*value));
  }
  return std::shared_ptr<const Dict>(std::move(dict));
}

Value Evaluator::on(const Unary& node) {
  const Value operand = evaluate(*node.operand);
  if (node.op == Unary::Operator::logical_not) return !operand.truthy();
  const Value negative = negate(operand);
  return node.op == Unary::Operator::negative ? negative : negate(negative);
}

Value Evaluator::on(const Binary& node) {
  const Value left = evaluate(*node.left);
  const Value right = evaluate(*node.right);
  return apply_binary(node.op, left, right, budget_);
}

Value Evaluator::on(const Concatenation& node) {
  std::string text;
  for (const auto& part : node.parts) text += to_text(evaluate(*part), budget_);
  return text;
}

Value Evaluator::on(const Logical& node) {
  Value left = evaluate(*node.left);
  return left.truthy() == node.is_and ? evaluate(*node.right) : left;
}

bool Evaluator::holds(Comparison::Operator op, const Value& left, const Value& right) {
  using Operator = Comparison::Operator;
  switch (op) {
    case Operator::eq:
      return equal(left, right, budget_);
    case Operator::ne:
      return !equal(left, right, budget_);
    case Operator::lt:
      return compare(left, right, budget_) < 0;
    case Operator::le:
      return compare(left, right, budget_) <= 0;
    case Operator::gt:
      return compare(left, right, budget_) > 0;
    case Operator::ge:
      return compare(left, right, budget_) >= 0;
    case Operator::in:
      return contains(right, left, budget_);
    case Operator::not_in:
      return !contains(right, left, budget_);
  }
  return false;
}

Value Evaluator::on(const Comparison& node) {
  Value left = evaluate(*node.first);
  for (const auto& [op, operand] : node.rest) {
    Value right = evaluate(*operand);
    if (!holds(op, left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Evaluator::on(const Conditional& node) {
  if (evaluate(*node.condition).truthy()) return evaluate(*node.value);
  if (node.otherwise) return evaluate(*node.otherwise);
  return Value::undefined("an if without else gave no value");
}

Value Evaluator::on(const Attribute& node) {
  return get_attribute(evaluate(*node.object), node.name, budget_);
}

Value Evaluator::on(const Item& node) {
  const Value object = evaluate(*node.object);
  return get_item(object, evaluate(*node.key), budget_);
}

Value Evaluator::on(const Slice& node) {
  const Value object = evaluate(*node.object);
  const auto part = [this](const ExpressionPtr& expression) -> std::optional<std::int64_t> {
    if (!expression) return std::nullopt;
    const Value value = evaluate(*expression);
    if (value.is_none()) return std::nullopt;
    const auto integer = value.integer();
    require(integer.has_value(), "a slice goes from or to {}, not an integer", value.type_name());
    return integer;
  };
  const auto start = part(node.start);
  const auto stop = part(node.stop);
  return get_slice(object, start, stop, part(node.step), budget_);
}

Given Evaluator::evaluate(const Arguments& arguments) {
  Given given;
  for (const auto& argument : arguments.positional) {
    given.positional.push_back(evaluate(*argument));
  }
  for (const auto& [name, argument] : arguments.named) {
    given.named.emplace_back(name, evaluate(*argument));
  }
  if (arguments.list) {
    auto items = iterate(evaluate(*arguments.list), budget_);
    std::move(items.begin(), items.end(), std::back_inserter(given.positional));
  }
  if (arguments.dict) {
    const Value value = evaluate(*arguments.dict);
    require(value.dict() != nullptr, "** of {}, not of a dict", value.type_name());
    budget_.items(value.dict()->entries.size());
    for (const auto& [name, argument] : value.dict()->entries) {
      require(name.is_string(), "** of a dict with {} as a key", name.type_name());
      budget_.bytes(name.string()->size());
      given.named.emplace_back(*name.string(), argument);
    }
  }
  return given;
}

Value Evaluator::on(const Call& node) {
  const int line = line_;
  const Value callee = evaluate(*node.callee);
  Given given = evaluate(node.arguments);
  line_ = line;
  Value result = call(callee, std::move(given));
  line_ = line;
  return result;
}

Value Evaluator::on(const Filter& node) {
  const int line = line_;
  const Value operand = node.operand ? evaluate(*node.operand) : std::exchange(block_text_, {});
  Given given = evaluate(node.arguments);
  line_ = line;
  return apply_filter(node.name, operand, std::move(given), budget_);
}

Value Evaluator::on(const Test& node) {
  const Value operand = evaluate(*node.operand);
  return apply_test(node.name, operand, evaluate(node.arguments), budget_) != node.negated;
}

Value Evaluator::call(const Value& callee, Given given) {
  require(!callee.is_undefined(), "{}, so it cannot be called", callee.undefined_message());
  const auto* held = callee.get_if<std::shared_ptr<const Callable>>();
  require(held != nullptr, "{} cannot be called", callee.type_name());
  const Callable& callable = **held;
  charge(callable.self, budget_);
  charge(given, budget_);
  if (callable.macro != nullptr) return call_macro(callable, std::move(given));
  if (callable.self.is_undefined()) return call_function(callable.name, std::move(given));
  return call_method(callable.self, callable.name, std::move(given), budget_);
}

Value Evaluator::call_macro(const Callable& callable, Given given) {
  const Macro& macro = *callable.macro;
  const auto outer = callable.defined.lock();
  require(outer != nullptr, "macro {} is called outside of the block that defines it", macro.name);
  require(given.positional.size() <= macro.parameters.size(),
          "macro {} takes at most {} arguments, not {}", macro.name, macro.parameters.size(),
          given.positional.size());
  const Within within(*this, outer);
  auto& names = scope_->names;
  for (std::size_t i = 0; i < given.positional.size(); ++i) {
    names[macro.parameters[i].first] = std::move(given.positional[i]);
  }
  for (auto& [name, value] : given.named) {
    const auto place = std::find_if(macro.parameters.begin(), macro.parameters.end(),
                                    [&key = name](const auto& p) { return p.first == key; });
    require(place != macro.parameters.end() || name == "caller", "macro {} has no argument {}",
            macro.name, name);
    require(names.try_emplace(name, std::move(value)).second,
            "macro {} is given its argument {} twice", macro.name, name);
  }
  for (const auto& [name, otherwise] : macro.parameters) {
    if (names.contains(name)) continue;
    names[name] = otherwise
                      ? evaluate(*otherwise)
                      : Value::undefined(fmt::format("parameter '{}' was not provided", name));
  }
  names.try_emplace("caller", Value::undefined("this macro was not called by a call block"));
  return captured(macro.body);
}

}  // namespace metala::jinja
