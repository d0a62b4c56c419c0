#include "metala/train/run_config.h"

#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <string_view>

#include "metala/base/error.h"
#include "metala/base/nearest_word.h"
#include "metala/io/printable.h"
#include "metala/train/neox_keys.h"
#include "metala/train/run_config_keys.h"

namespace metala {
namespace {

struct Entry {
  YAML::Node node;
  std::string where;  // "file.yml:3"
};
using Entries = std::map<std::string, Entry>;

// Mappings whose keys are keys of their own, written with dots.
constexpr auto sections = std::to_array<std::string_view>(
    {"optimizer", "optimizer.params", "fp16", "bf16", "zero_optimization", "metala"});

// Which precision is meant is said in one of these or in `precision`.
constexpr auto precision_keys =
    std::to_array<std::string_view>({"fp16.enabled", "fp16.type", "bf16.enabled"});

void flatten(const YAML::Node& map, const std::string& prefix, const std::string& source,
             Entries& entries) {
  for (const auto& item : map) {
    const std::string where = fmt::format("{}:{}", source, item.first.Mark().line + 1);
    require(item.first.IsScalar(), "{}: a key is not a word", where);
    std::string name = item.first.Scalar();
    std::replace(name.begin(), name.end(), '-', '_');
    name = prefix.empty() ? name : prefix + "." + name;
    if (std::find(sections.begin(), sections.end(), name) != sections.end()) {
      require(item.second.IsMap(), "{}: {} wants keys and values below it", where, printable(name));
      flatten(item.second, name, source, entries);
      continue;
    }
    const auto [there, fresh] = entries.emplace(name, Entry{item.second, where});
    require(fresh, "{}: {} is given twice, first in {}", where, printable(name),
            there->second.where);
  }
}

Entries entries_of(const RunConfigFile& file) {
  Entries entries;
  try {
    const YAML::Node root = YAML::Load(file.text);
    require(root.IsMap(), "{}: wanted keys and values of a GPT-NeoX configuration", file.source);
    flatten(root, "", file.source, entries);
  } catch (const YAML::Exception& e) {
    fail("{}:{}: {}", file.source, e.mark.line + 1, printable(e.msg));
  }
  return entries;
}

std::string shown(const YAML::Node& node) {
  return node.IsScalar() ? printable(node.Scalar()) : node.IsNull() ? "empty" : "a list or mapping";
}

// Reads one value into a field of each type there is.
class FieldReader {
 public:
  FieldReader(const std::string& name, const Entry& entry) : name_(name), entry_(entry) {}

  void operator()(std::int64_t& value) const {
    double number = NAN;
    const bool whole = YAML::convert<double>::decode(entry_.node, number) &&
                       number == std::floor(number) && std::abs(number) < 0x1p53;
    require(whole, "{}: {} is {}; wanted a whole number", entry_.where, name_, shown(entry_.node));
    value = static_cast<std::int64_t>(number);
  }
  void operator()(double& value) const {
    require(YAML::convert<double>::decode(entry_.node, value) && std::isfinite(value),
            "{}: {} is {}; wanted a number", entry_.where, name_, shown(entry_.node));
  }
  void operator()(bool& value) const {
    require(YAML::convert<bool>::decode(entry_.node, value), "{}: {} is {}; wanted true or false",
            entry_.where, name_, shown(entry_.node));
  }
  void operator()(std::string& value) const {
    require(entry_.node.IsScalar(), "{}: {} is {}; wanted a word or text", entry_.where, name_,
            shown(entry_.node));
    value = entry_.node.Scalar();
  }
  template <class T>
  void operator()(std::vector<T>& values) const {
    require(entry_.node.IsSequence(), "{}: {} is {}; wanted a list, [a, b]", entry_.where, name_,
            shown(entry_.node));
    values.clear();
    for (const auto& item : entry_.node) {
      T value{};
      const Entry own = {item, entry_.where};
      FieldReader(name_, own)(value);
      values.push_back(value);
    }
  }

 private:
  const std::string& name_;
  const Entry& entry_;
};

bool read_field(RunConfig& config, const std::string& name, const Entry& entry) {
  bool found = false;
  for_each_key(config, [&](const char* key, auto& field) {
    if (name != key) return;
    FieldReader(name, entry)(field);
    found = true;
  });
  return found;
}

std::vector<std::string> known_keys() {
  std::vector<std::string> keys(precision_keys.begin(), precision_keys.end());
  RunConfig config;
  for_each_key(config, [&](const char* key, auto&) { keys.emplace_back(key); });
  const auto inert = inert_neox_keys();
  keys.insert(keys.end(), inert.begin(), inert.end());
  for (const auto& key : constrained_neox_keys()) keys.emplace_back(key.name);
  return keys;
}

bool is_inert(const std::string& name) {
  return std::any_of(inert_neox_keys().begin(), inert_neox_keys().end(),
                     [&](std::string_view pattern) { return matches_key(pattern, name); });
}

// Whether `value`, in small letters, is one of "a|b|c".
bool is_allowed(std::string_view allowed, std::string value) {
  std::transform(value.begin(), value.end(), value.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  while (!allowed.empty()) {
    const std::size_t end = std::min(allowed.find('|'), allowed.size());
    if (allowed.substr(0, end) == value) return true;
    allowed.remove_prefix(std::min(end + 1, allowed.size()));
  }
  return false;
}

// True when the key is one of the constrained ones; throws when its value is not allowed.
bool check_constrained(const std::string& name, const Entry& entry) {
  for (const auto& key : constrained_neox_keys()) {
    if (!matches_key(key.name, name)) continue;
    const bool harmless = entry.node.IsNull() ||
                          (entry.node.IsScalar() && is_allowed(key.allowed, entry.node.Scalar()));
    require(harmless, "{}: {} is {}; {}", entry.where, name, shown(entry.node), key.instead);
    return true;
  }
  return false;
}

void read_precision(const Entries& entries, RunConfig& config) {
  const auto on = [&](const char* key) {
    const auto found = entries.find(key);
    bool value = false;
    if (found != entries.end()) FieldReader(found->first, found->second)(value);
    return value;
  };
  const auto type = entries.find("fp16.type");
  const bool fp16_means_bf16 = type != entries.end() && type->second.node.IsScalar() &&
                               type->second.node.Scalar() == "bfloat16";
  const bool fp16 = on("fp16.enabled");
  const bool bf16 = on("bf16.enabled") || (fp16 && fp16_means_bf16);
  if (!config.precision.empty()) return;
  if (bf16) config.precision = "bfloat16";
  if (fp16 && !fp16_means_bf16) config.precision = "fp16";
}

std::string text_of(bool value) {
  return value ? "true" : "false";
}
std::string text_of(std::int64_t value) {
  return std::to_string(value);
}
std::string text_of(double value) {
  return fmt::format("{}", value);
}
std::string text_of(const std::string& value) {
  YAML::Emitter out;
  out << value;
  return value.empty() ? "\"\"" : out.c_str();
}
template <class T>
std::string text_of(const std::vector<T>& values) {
  std::vector<std::string> parts;
  for (const auto& value : values) parts.push_back(text_of(value));
  return fmt::format("[{}]", fmt::join(parts, ", "));
}

}  // namespace

ParsedRunConfig parse_run_config(
    const std::vector<RunConfigFile>& files,
    const std::vector<std::pair<std::string, std::string>>& overrides) {
  Entries entries;
  for (const auto& file : files) {
    for (auto& [name, entry] : entries_of(file)) {
      const auto [there, fresh] = entries.emplace(name, entry);
      require(fresh, "{}: {} is given twice, first in {}", entry.where, printable(name),
              there->second.where);
    }
  }
  for (const auto& [name, value] : overrides) {
    try {
      entries.insert_or_assign(name, Entry{YAML::Load(value), "the command line"});
    } catch (const YAML::Exception& e) {
      fail("the command line: {} is {}: {}", name, printable(value), printable(e.msg));
    }
  }
  ParsedRunConfig parsed;
  for (const auto& [name, entry] : entries) {
    const bool null = entry.node.IsNull();
    if (std::find(precision_keys.begin(), precision_keys.end(), name) != precision_keys.end()) {
      continue;  // together, below
    }
    if (is_inert(name)) {
      parsed.inert.push_back(name);
      continue;
    }
    if (check_constrained(name, entry)) continue;
    if (null && std::ranges::count(known_keys(), name) > 0) {
      continue;  // `key: null` leaves the default
    }
    if (read_field(parsed.config, name, entry)) continue;
    const std::string close = nearest_word(name, known_keys());
    fail("{}: no key {}{}", entry.where, printable(name),
         close.empty() ? "" : "; did you mean " + close + "?");
  }
  read_precision(entries, parsed.config);
  return parsed;
}

std::string as_yaml(const RunConfig& config) {
  std::string top, nested;
  std::vector<std::string> open;  // sections written so far
  for_each_key(config, [&](const char* key, const auto& field) {
    const std::string name = key;
    const std::size_t dot = name.rfind('.');
    if (dot == std::string::npos) {
      top += fmt::format("{}: {}\n", name, text_of(field));
      return;
    }
    std::size_t depth = 0;
    for (std::size_t at = name.find('.'); at != std::string::npos; at = name.find('.', at + 1)) {
      const std::string section = name.substr(0, at);
      if (std::find(open.begin(), open.end(), section) == open.end()) {
        const std::size_t parent = section.rfind('.');
        nested += std::string(2 * depth, ' ') +
                  section.substr(parent == std::string::npos ? 0 : parent + 1) + ":\n";
        open.push_back(section);
      }
      ++depth;
    }
    nested += std::string(2 * depth, ' ') + name.substr(dot + 1) + ": " + text_of(field) + "\n";
  });
  return top + nested;
}

}  // namespace metala
