// Tokens to expressions. The parser of statements stands on it.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "metala/text/jinja_ast.h"
#include "metala/text/jinja_lexer.h"

namespace metala::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  const Token& before() const { return tokens_[at_ > 0 ? at_ - 1 : 0]; }
  const Token& now() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token take();
  bool is(TokenKind kind, std::string_view text) const {
    return now().kind == kind && now().text == text;
  }
  bool is_symbol(std::string_view text) const { return is(TokenKind::symbol, text); }
  bool is_word(std::string_view text) const { return is(TokenKind::name, text); }
  // Takes the token if it is this one.
  bool skip(TokenKind kind, std::string_view text);
  bool skip_symbol(std::string_view text) { return skip(TokenKind::symbol, text); }
  bool skip_word(std::string_view text) { return skip(TokenKind::name, text); }
  // Take the token, or throw Error when it is another.
  void expect_symbol(std::string_view text);
  void expect_word(std::string_view text);
  std::string expect_name();
  void expect(TokenKind kind, std::string_view what);
  [[noreturn]] void unexpected(std::string_view wanted) const;

  // One level deeper until it goes out of scope; Error when that is too deep.
  class Nesting {
   public:
    explicit Nesting(ExpressionParser& parser);
    ~Nesting() { --parser_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    ExpressionParser& parser_;
  };

  // A tag's expressions are limited in size together, since long ones make deep trees.
  void begin_tag() { nodes_ = 0; }

  // An expression, or several with commas between them.
  ExpressionPtr parse_tuple(bool may_be_conditional = true);
  ExpressionPtr parse_expression();
  // What may be called, and its call.
  ExpressionPtr parse_call() { return parse_unary(false); }
  // `|name|name(...)`; the first bar is left out in {% filter name %}.
  ExpressionPtr parse_filters(ExpressionPtr node, bool bar_left_out);

 private:
  using Operators = std::initializer_list<std::pair<std::string_view, Binary::Operator>>;

  template <class Node>
  ExpressionPtr make(int line, Node node);
  bool ends_tuple() const;
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_comparison();
  template <class Operand>
  ExpressionPtr parse_binary(Operators operators, Operand operand);
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concatenation();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filters);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_brackets(int line);
  ExpressionPtr parse_list(int line);
  ExpressionPtr parse_dict(int line);
  ExpressionPtr parse_postfix(ExpressionPtr node);
  ExpressionPtr parse_subscript(int line, ExpressionPtr object);
  Arguments parse_arguments();
  ExpressionPtr parse_filters_and_tests(ExpressionPtr node);
  ExpressionPtr parse_test(ExpressionPtr node);

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int nesting_ = 0;
  int nodes_ = 0;
};

}  // namespace metala::jinja
