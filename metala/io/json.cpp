#include "metala/io/json.h"

#include <set>
#include <vector>

#include "metala/base/error.h"
#include "metala/io/printable.h"

namespace metala {

nlohmann::json parse_json(const std::string& text, const std::string& source) {
  return parse_json(text, source,
                    [](int, nlohmann::json::parse_event_t, nlohmann::json&) { return true; });
}

nlohmann::json parse_json(const std::string& text, const std::string& source,
                          const nlohmann::json::parser_callback_t& keep) {
  constexpr int deepest = 64;
  std::vector<std::set<std::string>> keys;
  using Event = nlohmann::json::parse_event_t;
  const auto watch = [&](int depth, Event event, nlohmann::json& value) {
    require(depth <= deepest, "{}: nested deeper than {}", source, deepest);
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key) {
      const auto& key = value.get_ref<const std::string&>();
      require(keys.back().insert(key).second, "{}: \"{}\" is given twice", source, printable(key));
    }
    return keep(depth, event, value);
  };
  try {
    return nlohmann::json::parse(text, watch);
  } catch (const nlohmann::json::exception& e) {
    std::string problem = e.what();
    const auto bracket = problem.find("] ");  // drops the library's own error number
    if (bracket != std::string::npos) problem.erase(0, bracket + 2);
    fail("{}: not valid JSON: {}", source, problem);
  }
}

}  // namespace metala
