#include "metala/text/jinja_template.h"

#include "metala/text/jinja_evaluator.h"
#include "metala/text/jinja_parser.h"
#include "metala/text/utf8.h"

namespace metala::jinja {

Template::Template(std::string_view source)
    : body_(std::make_shared<const Body>(parse(replace_invalid_utf8(source)))) {}

std::string Template::render(const nlohmann::ordered_json& variables,
                             const RenderOptions& options) const {
  std::optional<Evaluator> evaluator;
  try {
    evaluator.emplace(variables, options);
    return evaluator->run(*body_);
  } catch (const Error& e) {
    if (!evaluator) throw;                 // the variables are at fault
    constexpr std::size_t longest = 1000;  // it may quote what the template made
    const std::string_view what = e.what();
    fail("line {}: {}", evaluator->line(),
         what.substr(0, valid_utf8_prefix(what.substr(0, longest))));
  }
}

}  // namespace metala::jinja
