// A template of the Jinja language, as chat templates use it: parsed once, rendered many times.
//
// The environment is that of the reference: trim_blocks, lstrip_blocks, break and continue, no
// escaping, a sandbox in which nothing that came in can be changed. Left out are inheritance,
// includes, recursive loops, and filters and tests that no chat template needs.
// Differences: what `map` and `select` give can be gone through twice; upper and lower case know
// the letters of Latin-1, Latin Extended-A, Greek and Cyrillic.
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "metala/text/jinja_budget.h"

namespace metala::jinja {

struct Statement;

struct RenderOptions {
  Limits limits;
  std::optional<std::time_t> now;  // what strftime_now formats, in local time; default: the clock
};

class Template {
 public:
  // Throws Error "line N: what is wrong".
  explicit Template(std::string_view source);

  // `variables`: an object, each entry a name of the template. Throws Error "line N: ..." for what
  // fails while rendering, raise_exception included, and when a limit is reached.
  std::string render(const nlohmann::ordered_json& variables, const RenderOptions& = {}) const;

 private:
  std::shared_ptr<const std::vector<std::unique_ptr<Statement>>> body_;
};

}  // namespace metala::jinja
