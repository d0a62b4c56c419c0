#include "metala/text/jinja_expression_parser.h"

#include <algorithm>

#include "metala/base/error.h"
#include "metala/text/utf8.h"

namespace metala::jinja {
namespace {

// Far above what templates people write need, far below what recursion can stand.
constexpr int deepest_nesting = 100;
constexpr int most_nodes_in_tag = 2000;

}  // namespace

// --- tokens ---

Token ExpressionParser::take() {
  return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_];
}

bool ExpressionParser::skip(TokenKind kind, std::string_view text) {
  if (!is(kind, text)) return false;
  take();
  return true;
}

void ExpressionParser::unexpected(std::string_view wanted) const {
  const std::string found =
      now().kind == TokenKind::end ? "the template's end" : fmt::format("'{}'", now().text);
  fail("line {}: {} where {} is expected", now().line,
       found.substr(0, valid_utf8_prefix(std::string_view(found).substr(0, 60))), wanted);
}

void ExpressionParser::expect_symbol(std::string_view text) {
  if (!skip_symbol(text)) unexpected(fmt::format("'{}'", text));
}

void ExpressionParser::expect_word(std::string_view text) {
  if (!skip_word(text)) unexpected(fmt::format("'{}'", text));
}

std::string ExpressionParser::expect_name() {
  if (now().kind != TokenKind::name) unexpected("a name");
  return take().text;
}

void ExpressionParser::expect(TokenKind kind, std::string_view what) {
  if (now().kind != kind) unexpected(what);
  take();
}

ExpressionParser::Nesting::Nesting(ExpressionParser& parser) : parser_(parser) {
  require(parser_.nesting_ < deepest_nesting, "line {}: the template nests too deep",
          parser_.now().line);
  ++parser_.nesting_;
}

// --- expressions, from the loosest operator to the tightest ---

template <class Node>
ExpressionPtr ExpressionParser::make(int line, Node node) {
  require(++nodes_ <= most_nodes_in_tag, "line {}: a tag with too long an expression", line);
  return std::make_unique<Expression>(Expression{line, std::move(node)});
}

bool ExpressionParser::ends_tuple() const {
  return now().kind == TokenKind::output_end || now().kind == TokenKind::block_end ||
         is_symbol(")");
}

// An expression, or several with commas between them.
ExpressionPtr ExpressionParser::parse_tuple(bool may_be_conditional) {
  const int line = now().line;
  const auto one = [&] { return may_be_conditional ? parse_expression() : parse_or(); };
  ExpressionPtr first = one();
  if (!is_symbol(",")) return first;
  ListOf tuple{Sequence::Form::tuple, {}};
  tuple.items.push_back(std::move(first));
  while (skip_symbol(",")) {
    if (ends_tuple()) break;
    tuple.items.push_back(one());
  }
  return make(line, std::move(tuple));
}

ExpressionPtr ExpressionParser::parse_expression() {
  const Nesting nesting(*this);
  const int line = now().line;
  ExpressionPtr value = parse_or();
  while (skip_word("if")) {
    ExpressionPtr condition = parse_or();
    ExpressionPtr otherwise;
    if (skip_word("else")) otherwise = parse_expression();
    value = make(line, Conditional{std::move(condition), std::move(value), std::move(otherwise)});
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_or() {
  const int line = now().line;
  ExpressionPtr left = parse_and();
  while (skip_word("or")) left = make(line, Logical{false, std::move(left), parse_and()});
  return left;
}

ExpressionPtr ExpressionParser::parse_and() {
  const int line = now().line;
  ExpressionPtr left = parse_not();
  while (skip_word("and")) left = make(line, Logical{true, std::move(left), parse_not()});
  return left;
}

ExpressionPtr ExpressionParser::parse_not() {
  const Nesting nesting(*this);
  const int line = now().line;
  if (!skip_word("not")) return parse_comparison();
  return make(line, Unary{Unary::Operator::logical_not, parse_not()});
}

ExpressionPtr ExpressionParser::parse_comparison() {
  using Operator = Comparison::Operator;
  static constexpr std::pair<std::string_view, Operator> symbols[] = {
      {"==", Operator::eq}, {"!=", Operator::ne}, {"<", Operator::lt},
      {"<=", Operator::le}, {">", Operator::gt},  {">=", Operator::ge}};
  const int line = now().line;
  ExpressionPtr first = parse_sum();
  Comparison node;
  while (true) {
    const auto symbol = std::find_if(std::begin(symbols), std::end(symbols),
                                     [&](const auto& s) { return is_symbol(s.first); });
    if (symbol != std::end(symbols)) {
      take();
      node.rest.emplace_back(symbol->second, parse_sum());
    } else if (skip_word("in")) {
      node.rest.emplace_back(Operator::in, parse_sum());
    } else if (is_word("not") && ahead().kind == TokenKind::name && ahead().text == "in") {
      take();
      take();
      node.rest.emplace_back(Operator::not_in, parse_sum());
    } else {
      break;
    }
  }
  if (node.rest.empty()) return first;
  node.first = std::move(first);
  return make(line, std::move(node));
}

template <class Operand>
ExpressionPtr ExpressionParser::parse_binary(Operators operators, Operand operand) {
  ExpressionPtr left = operand();
  while (true) {
    const int line = now().line;
    const auto found = std::find_if(operators.begin(), operators.end(),
                                    [&](const auto& o) { return is_symbol(o.first); });
    if (found == operators.end()) return left;
    take();
    left = make(line, Binary{found->second, std::move(left), operand()});
  }
}

ExpressionPtr ExpressionParser::parse_sum() {
  return parse_binary({{"+", Binary::Operator::add}, {"-", Binary::Operator::subtract}},
                      [this] { return parse_concatenation(); });
}

ExpressionPtr ExpressionParser::parse_concatenation() {
  const int line = now().line;
  ExpressionPtr first = parse_product();
  if (!is_symbol("~")) return first;
  Concatenation node;
  node.parts.push_back(std::move(first));
  while (skip_symbol("~")) node.parts.push_back(parse_product());
  return make(line, std::move(node));
}

ExpressionPtr ExpressionParser::parse_product() {
  return parse_binary({{"*", Binary::Operator::multiply},
                       {"/", Binary::Operator::divide},
                       {"//", Binary::Operator::floor_divide},
                       {"%", Binary::Operator::modulo}},
                      [this] { return parse_power(); });
}

ExpressionPtr ExpressionParser::parse_power() {
  return parse_binary({{"**", Binary::Operator::power}}, [this] { return parse_unary(true); });
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filters) {
  const Nesting nesting(*this);
  const int line = now().line;
  ExpressionPtr node;
  if (skip_symbol("-")) {
    node = make(line, Unary{Unary::Operator::negative, parse_unary(false)});
  } else if (skip_symbol("+")) {
    node = make(line, Unary{Unary::Operator::positive, parse_unary(false)});
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filters ? parse_filters_and_tests(std::move(node)) : std::move(node);
}

ExpressionPtr ExpressionParser::parse_primary() {
  const Token token = now();
  switch (token.kind) {
    case TokenKind::name:
      take();
      if (token.text == "true" || token.text == "True") return make(token.line, Constant{true});
      if (token.text == "false" || token.text == "False") {
        return make(token.line, Constant{false});
      }
      if (token.text == "none" || token.text == "None") {
        return make(token.line, Constant{None()});
      }
      return make(token.line, Name{token.text});
    case TokenKind::string: {
      std::string text;
      while (now().kind == TokenKind::string) text += take().text;
      return make(token.line, Constant{std::move(text)});
    }
    case TokenKind::integer:
      take();
      return make(token.line, Constant{token.integer});
    case TokenKind::real:
      take();
      return make(token.line, Constant{token.real});
    default:
      break;
  }
  if (skip_symbol("(")) return parse_brackets(token.line);
  if (skip_symbol("[")) return parse_list(token.line);
  if (skip_symbol("{")) return parse_dict(token.line);
  unexpected("an expression");
}

ExpressionPtr ExpressionParser::parse_brackets(int line) {
  if (skip_symbol(")")) return make(line, ListOf{Sequence::Form::tuple, {}});
  ExpressionPtr inner = parse_tuple();
  expect_symbol(")");
  return inner;
}

ExpressionPtr ExpressionParser::parse_list(int line) {
  ListOf list{Sequence::Form::list, {}};
  while (!skip_symbol("]")) {
    if (!list.items.empty()) expect_symbol(",");
    if (skip_symbol("]")) break;
    list.items.push_back(parse_expression());
  }
  return make(line, std::move(list));
}

ExpressionPtr ExpressionParser::parse_dict(int line) {
  DictOf dict;
  while (!skip_symbol("}")) {
    if (!dict.entries.empty()) expect_symbol(",");
    if (skip_symbol("}")) break;
    ExpressionPtr key = parse_expression();
    expect_symbol(":");
    dict.entries.emplace_back(std::move(key), parse_expression());
  }
  return make(line, std::move(dict));
}

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr node) {
  while (true) {
    const int line = now().line;
    if (skip_symbol(".")) {
      if (now().kind == TokenKind::integer) {
        ExpressionPtr key = make(line, Constant{take().integer});
        node = make(line, Item{std::move(node), std::move(key)});
      } else {
        node = make(line, Attribute{std::move(node), expect_name()});
      }
    } else if (skip_symbol("[")) {
      node = parse_subscript(line, std::move(node));
    } else if (is_symbol("(")) {
      node = make(line, Call{std::move(node), parse_arguments()});
    } else {
      return node;
    }
  }
}

ExpressionPtr ExpressionParser::parse_subscript(int line, ExpressionPtr object) {
  const auto part = [this]() -> ExpressionPtr {
    return is_symbol(":") || is_symbol("]") ? nullptr : parse_expression();
  };
  ExpressionPtr first = part();
  if (!is_symbol(":")) {
    if (!first) unexpected("an index");
    expect_symbol("]");
    return make(line, Item{std::move(object), std::move(first)});
  }
  take();
  ExpressionPtr stop = part();
  ExpressionPtr step;
  if (skip_symbol(":")) step = part();
  expect_symbol("]");
  return make(line, Slice{std::move(object), std::move(first), std::move(stop), std::move(step)});
}

Arguments ExpressionParser::parse_arguments() {
  Arguments arguments;
  expect_symbol("(");
  bool first = true;
  while (!skip_symbol(")")) {
    if (!std::exchange(first, false)) expect_symbol(",");
    if (skip_symbol(")")) break;
    if (skip_symbol("**")) {
      require(!arguments.dict, "line {}: a second ** in a call", now().line);
      arguments.dict = parse_expression();
    } else if (skip_symbol("*")) {
      require(!arguments.list && !arguments.dict, "line {}: a second * in a call", now().line);
      arguments.list = parse_expression();
    } else if (now().kind == TokenKind::name && ahead().kind == TokenKind::symbol &&
               ahead().text == "=") {
      std::string name = take().text;
      take();
      arguments.named.emplace_back(std::move(name), parse_expression());
    } else {
      require(arguments.named.empty() && !arguments.list && !arguments.dict,
              "line {}: an argument after a named one", now().line);
      arguments.positional.push_back(parse_expression());
    }
  }
  return arguments;
}

ExpressionPtr ExpressionParser::parse_filters_and_tests(ExpressionPtr node) {
  while (true) {
    if (is_symbol("|")) {
      node = parse_filters(std::move(node), false);
    } else if (is_word("is")) {
      node = parse_test(std::move(node));
    } else if (is_symbol("(")) {
      const int line = now().line;
      node = make(line, Call{std::move(node), parse_arguments()});
    } else {
      return node;
    }
  }
}

// `|name|name(...)`; the first bar is left out in {% filter name %}.
ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr node, bool bar_left_out) {
  while (bar_left_out || is_symbol("|")) {
    const int line = now().line;
    if (!std::exchange(bar_left_out, false)) take();
    std::string name = expect_name();
    Arguments arguments;
    if (is_symbol("(")) arguments = parse_arguments();
    node = make(line, Filter{std::move(node), std::move(name), std::move(arguments)});
  }
  return node;
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr node) {
  const int line = take().line;
  const bool negated = skip_word("not");
  std::string name = expect_name();
  Arguments arguments;
  const bool literal = now().kind == TokenKind::string || now().kind == TokenKind::integer ||
                       now().kind == TokenKind::real;
  const bool word =
      now().kind == TokenKind::name && !is_word("else") && !is_word("or") && !is_word("and");
  if (is_symbol("(")) {
    arguments = parse_arguments();
  } else if (literal || word || is_symbol("[") || is_symbol("{")) {
    require(!is_word("is"), "line {}: tests cannot be chained with is", now().line);
    arguments.positional.push_back(parse_postfix(parse_primary()));
  }
  return make(line, Test{std::move(node), std::move(name), std::move(arguments), negated});
}

}  // namespace metala::jinja
