// JSON from files that may be hostile: bounded depth, no duplicate keys, errors that name the file.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace metala {

// Throws Error "SOURCE: what is wrong" for text that is not JSON, repeats a key in an object, nests
// deeper than 64 or is not UTF-8.
nlohmann::json parse_json(const std::string& text, const std::string& source);

// The same, but each part is shown to `keep` as it is read (nlohmann::json's parser callback); what
// it says no to is left out. For files too large to hold as a tree.
nlohmann::json parse_json(const std::string& text, const std::string& source,
                          const nlohmann::json::parser_callback_t& keep);

}  // namespace metala
