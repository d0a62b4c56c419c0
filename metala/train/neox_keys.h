// GPT-NeoX's and DeepSpeed's keys that RunConfig has no field for.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace metala {

// Keys that say nothing about what is learned. A name ending in `*` stands for all that begin so.
std::span<const std::string_view> inert_neox_keys();

struct ConstrainedKey {
  std::string_view name;
  std::string_view allowed;  // values as YAML writes them, separated by "|"; empty: none
  std::string_view instead;  // what to do
};
std::span<const ConstrainedKey> constrained_neox_keys();

// Whether `name` is `pattern`, or begins as a pattern ending in `*` does.
bool matches_key(std::string_view pattern, std::string_view name);

}  // namespace metala
