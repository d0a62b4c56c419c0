#include "metala/text/jinja_parser.h"

#include <algorithm>
#include <initializer_list>
#include <set>

#include "metala/base/error.h"
#include "metala/text/jinja_expression_parser.h"

namespace metala::jinja {
namespace {

class Parser : private ExpressionParser {
 public:
  explicit Parser(std::string_view source) : ExpressionParser(tokenize(source)) {}

  Body run() { return parse_body({}); }

 private:
  // Up to `{% end %}` with one of `ends`, whose word is the current token after it.
  Body parse_body(std::initializer_list<std::string_view> ends) {
    const Nesting nesting(*this);
    const int begin = before().line;
    Body body;
    while (true) {
      const int line = now().line;
      switch (now().kind) {
        case TokenKind::text:
          body.push_back(make(line, Text{take().text}));
          break;
        case TokenKind::output_begin:
          take();
          begin_tag();
          body.push_back(make(line, Output{parse_tuple()}));
          expect(TokenKind::output_end, "'}}'");
          break;
        case TokenKind::block_begin: {
          take();
          begin_tag();
          if (now().kind != TokenKind::name) unexpected("a statement");
          const bool at_end = std::find(ends.begin(), ends.end(), now().text) != ends.end();
          if (at_end) return body;
          body.push_back(statement(line));
          break;
        }
        default:
          require(ends.size() == 0, "line {}: the block that begins here misses its {}", begin,
                  ends.size() == 0 ? "" : *(ends.end() - 1));
          return body;
      }
    }
  }

  // The rest of a block: its tag's end, the body, the closing tag.
  Body parse_block(std::string_view end) {
    expect(TokenKind::block_end, "'%}'");
    Body body = parse_body({end});
    take();
    expect(TokenKind::block_end, "'%}'");
    return body;
  }

  template <class Node>
  static StatementPtr make(int line, Node node) {
    return std::make_unique<Statement>(Statement{line, std::move(node)});
  }

  StatementPtr statement(int line) {
    const Token word = take();
    const std::string& name = word.text;
    if (name == "if") return make(line, parse_if());
    if (name == "for") return make(line, parse_for());
    if (name == "set") return parse_set(line);
    if (name == "macro") return make(line, parse_macro());
    if (name == "call") return make(line, parse_call_block());
    if (name == "with") return make(line, parse_with());
    if (name == "generation") return make(line, Scoped{{}, parse_block("endgeneration")});
    if (name == "filter") {
      ExpressionPtr filter = parse_filters(nullptr, true);
      return make(line, FilterBlock{std::move(filter), parse_block("endfilter")});
    }
    if (name == "break" || name == "continue") {
      require(loops_ > 0, "line {}: {} outside of a for", line, name);
      expect(TokenKind::block_end, "'%}'");
      return make(line, LoopJump{name == "break"});
    }
    static const std::set<std::string, std::less<>> others = {
        "block", "extends", "include", "import", "from", "do", "trans", "autoescape"};
    require(!others.contains(name), "line {}: {{% {} %}} is not supported in chat templates", line,
            name);
    fail("line {}: {{% {} %}} is not expected here", line, name.substr(0, 60));
  }

  If parse_if() {
    If node;
    while (true) {
      ExpressionPtr condition = parse_tuple(false);
      expect(TokenKind::block_end, "'%}'");
      node.branches.emplace_back(std::move(condition), parse_body({"elif", "else", "endif"}));
      const Token word = take();
      if (word.text == "elif") continue;
      expect(TokenKind::block_end, "'%}'");
      if (word.text == "endif") return node;
      node.otherwise = parse_body({"endif"});
      take();
      expect(TokenKind::block_end, "'%}'");
      return node;
    }
  }

  For parse_for() {
    For node;
    node.target = parse_target(false);
    expect_word("in");
    node.iterable = parse_tuple(false);
    if (skip_word("if")) node.condition = parse_expression();
    require(!is_word("recursive"), "line {}: recursive loops are not supported", now().line);
    expect(TokenKind::block_end, "'%}'");
    ++loops_;
    node.body = parse_body({"else", "endfor"});
    --loops_;
    if (take().text == "else") {
      expect(TokenKind::block_end, "'%}'");
      node.otherwise = parse_body({"endfor"});
      take();
    }
    expect(TokenKind::block_end, "'%}'");
    return node;
  }

  StatementPtr parse_set(int line) {
    Target target = parse_target(true);
    if (skip_symbol("=")) {
      Set node{std::move(target), parse_tuple()};
      expect(TokenKind::block_end, "'%}'");
      return make(line, std::move(node));
    }
    ExpressionPtr filter;
    if (is_symbol("|")) filter = parse_filters(nullptr, false);
    return make(line, SetBlock{std::move(target), std::move(filter), parse_block("endset")});
  }

  Macro parse_macro() {
    Macro node;
    node.name = expect_name();
    node.parameters = parse_parameters();
    node.body = parse_macro_body("endmacro");
    return node;
  }

  CallBlock parse_call_block() {
    CallBlock node;
    node.caller.name = "caller";
    if (is_symbol("(")) node.caller.parameters = parse_parameters();
    node.call = parse_call();
    require(std::holds_alternative<Call>(node.call->node), "line {}: {{% call %}} needs a call",
            node.call->line);
    node.caller.body = parse_macro_body("endcall");
    return node;
  }

  std::vector<std::pair<std::string, ExpressionPtr>> parse_parameters() {
    std::vector<std::pair<std::string, ExpressionPtr>> parameters;
    expect_symbol("(");
    while (!skip_symbol(")")) {
      if (!parameters.empty()) expect_symbol(",");
      const int line = now().line;
      std::string name = expect_name();
      ExpressionPtr otherwise;
      if (skip_symbol("=")) otherwise = parse_expression();
      require(otherwise || parameters.empty() || !parameters.back().second,
              "line {}: parameter {} without a default after one with a default", line, name);
      parameters.emplace_back(std::move(name), std::move(otherwise));
    }
    return parameters;
  }

  // Loops around a macro are not its own: it cannot break out of them.
  Body parse_macro_body(std::string_view end) {
    const int outer_loops = std::exchange(loops_, 0);
    Body body = parse_block(end);
    loops_ = outer_loops;
    return body;
  }

  Scoped parse_with() {
    Scoped node;
    while (now().kind != TokenKind::block_end) {
      if (!node.values.empty()) expect_symbol(",");
      Target target = parse_target(false);
      expect_symbol("=");
      node.values.emplace_back(std::move(target), parse_expression());
    }
    node.body = parse_block("endwith");
    return node;
  }

  // `a`, `a, b`, `(a, b)`, and `space.a` for set.
  Target parse_target(bool may_be_attribute) {
    Target target;
    const bool bracket = skip_symbol("(");
    target.names.push_back(checked_name());
    if (may_be_attribute && !bracket && skip_symbol(".")) {
      target.space = std::exchange(target.names[0], expect_name());
      return target;
    }
    while (skip_symbol(",")) {
      target.unpacks = true;
      if (now().kind != TokenKind::name || is_word("in")) break;
      target.names.push_back(checked_name());
    }
    if (bracket) expect_symbol(")");
    return target;
  }

  std::string checked_name() {
    static const std::set<std::string, std::less<>> constants = {"true",  "True", "false",
                                                                 "False", "none", "None"};
    require(!constants.contains(now().text), "line {}: {} cannot be set", now().line, now().text);
    return expect_name();
  }

  int loops_ = 0;
};

}  // namespace

Body parse(std::string_view source) {
  return Parser(source).run();
}

}  // namespace metala::jinja
