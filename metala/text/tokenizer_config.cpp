#include "metala/text/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "metala/base/error.h"
#include "metala/io/file.h"
#include "metala/io/json.h"
#include "metala/io/printable.h"

namespace metala {
namespace {

using nlohmann::json;

constexpr std::size_t largest_file = std::size_t{64} << 20;
constexpr const char* names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                 "pad_token", "cls_token", "mask_token"};

const json* find(const json& object, const char* key) {
  const auto place = object.find(key);
  return place == object.end() || place->is_null() ? nullptr : &*place;
}

std::optional<bool> flag(const json& object, const char* key, const std::string& source) {
  const json* given = find(object, key);
  if (given == nullptr) return std::nullopt;
  require(given->is_boolean(), "{}: {} is not true or false", source, key);
  return given->get<bool>();
}

// A text, or an object that holds it as "content".
std::string token_text(const json& token, const std::string& field) {
  const json* content = token.is_object() ? find(token, "content") : &token;
  require(content != nullptr && content->is_string(),
          "{} is neither a text nor an object with a text \"content\"", field);
  return content->get<std::string>();
}

void read_names(const json& object, const std::string& source, TokenizerConfig& config) {
  for (const char* name : names) {
    const json* token = find(object, name);
    if (token == nullptr || config.named.contains(name)) continue;
    config.named[name] = token_text(*token, fmt::format("{}: {}", source, name));
  }
}

AddedToken read_added(const std::string& id, const json& object, const std::string& source) {
  AddedToken token;
  const auto [end, problem] = std::from_chars(id.data(), id.data() + id.size(), token.id);
  require(problem == std::errc() && end == id.data() + id.size() && token.id >= 0,
          "{}: added_tokens_decoder has \"{}\" where an id was wanted", source, printable(id));
  const std::string field = fmt::format("{}: added_tokens_decoder {}", source, token.id);
  require(object.is_object(), "{} is not an object", field);
  token.content = token_text(object, field);
  token.single_word = flag(object, "single_word", field).value_or(false);
  token.lstrip = flag(object, "lstrip", field).value_or(false);
  token.rstrip = flag(object, "rstrip", field).value_or(false);
  token.normalized = flag(object, "normalized", field).value_or(false);
  token.special = flag(object, "special", field).value_or(false);
  return token;
}

json read_object(const std::string& folder, const char* name, TokenizerConfig& config) {
  const std::string path = folder + "/" + name;
  if (!std::filesystem::is_regular_file(path)) return json::object();
  config.files.emplace_back(name, read_file(path, largest_file));
  json object = parse_json(config.files.back().second, path);
  require(object.is_object(), "{}: not a JSON object", path);
  return object;
}

}  // namespace

bool TokenizerConfig::is_llama() const {
  return tokenizer_class.starts_with("LlamaTokenizer") ||
         tokenizer_class.starts_with("CodeLlamaTokenizer");
}

TokenizerConfig read_tokenizer_config(const std::string& folder) {
  TokenizerConfig config;
  config.path = folder + "/tokenizer_config.json";
  const json object = read_object(folder, "tokenizer_config.json", config);
  if (const json* name = find(object, "tokenizer_class")) {
    require(name->is_string(), "{}: tokenizer_class is not a text", config.path);
    config.tokenizer_class = name->get<std::string>();
  }
  config.add_bos_token = flag(object, "add_bos_token", config.path);
  config.add_eos_token = flag(object, "add_eos_token", config.path);
  config.clean_up_tokenization_spaces =
      flag(object, "clean_up_tokenization_spaces", config.path).value_or(false);
  if (const json* added = find(object, "added_tokens_decoder")) {
    require(added->is_object(), "{}: added_tokens_decoder is not an object", config.path);
    for (const auto& [id, token] : added->items()) {
      config.added.push_back(read_added(id, token, config.path));
    }
    std::sort(config.added.begin(), config.added.end(),
              [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  }
  read_names(object, config.path, config);
  const char* map = "special_tokens_map.json";
  read_names(read_object(folder, map, config), folder + "/" + map, config);
  return config;
}

}  // namespace metala
