// `metala train CONFIG.yml ...`: a run read from GPT-NeoX's YAML files, with flags over them.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "metala/train/run_config.h"

namespace metala::cli {

// The configuration that the positional arguments name; nothing if they name text. Every flag that
// was given replaces the key it stands for, as does each KEY=VALUE of `settings`. Throws UsageError
// for flags that make no sense beside a configuration.
std::optional<ParsedRunConfig> run_configuration(const CLI::App& train,
                                                 const std::vector<std::string>& inputs,
                                                 const std::vector<std::string>& settings);

// Whether all of the positional arguments are datasets prepared by `metala data prepare`. Throws
// UsageError when only some are.
bool names_prepared_data(const std::vector<std::string>& inputs);

}  // namespace metala::cli
