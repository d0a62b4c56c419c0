// Finds the chat template of a model folder.
#include <filesystem>
#include <map>

#include "metala/base/error.h"
#include "metala/io/file.h"
#include "metala/io/json.h"
#include "metala/io/printable.h"
#include "metala/text/chat_template.h"
#include "metala/text/tokenizer_config.h"

namespace metala {
namespace {

constexpr std::size_t longest_template = std::size_t{1} << 20;
constexpr std::size_t longest_config = std::size_t{1} << 26;  // vocabularies' added tokens

bool exists(const std::string& path) {
  return std::filesystem::is_regular_file(path);
}

nlohmann::ordered_json special_tokens(const std::string& folder) {
  auto tokens = nlohmann::ordered_json::object();
  for (const auto& [name, text] : read_tokenizer_config(folder).named) tokens[name] = text;
  return tokens;
}

// The templates of tokenizer_config.json by name; a single one is "default".
std::map<std::string, std::string> named_templates(const nlohmann::json& config,
                                                   const std::string& path) {
  if (!config.contains("chat_template") || config["chat_template"].is_null()) return {};
  const auto& field = config["chat_template"];
  if (field.is_string()) return {{"default", field.get<std::string>()}};
  require(field.is_array(), "{}: chat_template is neither a text nor a list of {{name, template}}",
          path);
  std::map<std::string, std::string> templates;
  for (std::size_t i = 0; i < field.size(); ++i) {
    const auto& one = field[i];
    const auto has_text = [&](const char* key) {
      return one.is_object() && one.contains(key) && one[key].is_string();
    };
    require(has_text("name") && has_text("template"),
            "{}: chat_template[{}] lacks a text \"name\" or \"template\"", path, i);
    const bool is_new =
        templates.emplace(one["name"].get<std::string>(), one["template"].get<std::string>())
            .second;
    require(is_new, "{}: chat_template has \"{}\" twice", path,
            printable(one["name"].get_ref<const std::string&>()));
  }
  require(templates.empty() || templates.contains("default"),
          "{}: chat_template has no template named \"default\"", path);
  return templates;
}

}  // namespace

std::optional<ChatTemplate> load_chat_template(const std::string& folder) {
  const std::string config_path = folder + "/tokenizer_config.json";
  auto config = nlohmann::json::object();
  if (exists(config_path)) {
    config = parse_json(read_file(config_path, longest_config), config_path);
    require(config.is_object(), "{}: not a JSON object", config_path);
  }
  std::map<std::string, std::string> sources;
  const auto from_file = [&](const char* name, const std::string& path) {
    if (exists(path)) sources[name] = read_file(path, longest_template);
  };
  const std::string main_path = folder + "/chat_template.jinja";
  const std::string tool_use_path = folder + "/additional_chat_templates/tool_use.jinja";
  from_file("default", main_path);
  const bool from_files = !sources.empty();
  if (from_files) {
    from_file("tool_use", tool_use_path);
  } else {
    sources = named_templates(config, config_path);
  }
  if (sources.empty()) return std::nullopt;
  const std::string in_config = config_path + ": chat_template";
  for (const auto& [name, source] : sources) {
    require(source.size() <= longest_template, "{} has {} bytes; at most {} are read", in_config,
            source.size(), longest_template);
  }
  ChatTemplate found(sources["default"], from_files ? main_path : in_config,
                     special_tokens(folder));
  if (const auto tools = sources.find("tool_use"); tools != sources.end()) {
    found.add_tool_use(tools->second, from_files ? tool_use_path : in_config + " tool_use");
  }
  return found;
}

}  // namespace metala
