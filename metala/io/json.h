// JSON from files that may be hostile: bounded depth, no duplicate keys, errors that name the file.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace metala {

// Throws Error "SOURCE: what is wrong" for text that is not JSON, repeats a key in an object, nests
// deeper than 64 or is not UTF-8.
nlohmann::json parse_json(const std::string& text, const std::string& source);

}  // namespace metala
