#include "metala/text/pattern.h"

namespace metala {

Pattern::Pattern(const nlohmann::json& json, const std::string& place) : place_(place) {
  const JsonFields fields(json, place);
  if (fields.find("String") != nullptr) {
    literal_ = fields.text("String");
  } else {
    require(fields.find("Regex") != nullptr, "{} has neither \"String\" nor \"Regex\"", place);
    regex_source_ = fields.text("Regex");
  }
  if (literal_.empty()) {
    regex_ = std::make_shared<const Regex>(regex_source_, Regex::Syntax::oniguruma, place);
  }
}

void Pattern::each(std::string_view text, FunctionRef<void(std::size_t, std::size_t)> match) const {
  if (regex_ != nullptr) return regex_->each(text, match);
  for (auto at = text.find(literal_); at != std::string_view::npos;
       at = text.find(literal_, at + literal_.size())) {
    match(at, at + literal_.size());
  }
}

std::string Pattern::replaced(std::string_view text, std::string_view content,
                              std::size_t most) const {
  std::string out;
  std::size_t done = 0;
  const auto add = [&](std::string_view part) {
    require(out.size() + part.size() <= most,
            "{}: replacing makes a text of {} bytes longer than "
            "{}; that is no tokenizer",
            place_, text.size(), most);
    out += part;
  };
  each(text, [&](std::size_t begin, std::size_t end) {
    add(text.substr(done, begin - done));
    add(content);
    done = end;
  });
  add(text.substr(done));
  return out;
}

}  // namespace metala
