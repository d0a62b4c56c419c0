// What a GPT-NeoX folder leaves open, as options of a command.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "metala/base/error.h"
#include "metala/cli/checks.h"
#include "metala/model/neox.h"

namespace metala::cli {

inline void add_neox(CLI::App* command, NeoxOptions& neox) {
  command->add_option("--neox-config", neox.config,
                      "The YAML of a GPT-NeoX folder; else the only one in it");
  command->add_option("--heads", neox.heads, "Heads of a GPT-NeoX folder without a YAML")
      ->check(positive());
  CLI::Option* tied = command->add_flag_callback(
      "--tied", [&neox] { neox.tied = true; },
      "A GPT-NeoX folder without a YAML ties its embeddings");
  command
      ->add_flag_callback(
          "--untied", [&neox] { neox.tied = false; }, "It does not tie them")
      ->excludes(tied);
}

// Of a model that is not GPT-NeoX's they would change nothing.
inline void refuse_neox_options(const NeoxOptions& neox, const std::string& model) {
  if (neox.config.empty() && !neox.heads && !neox.tied) return;
  throw UsageError(fmt::format(
      "--neox-config, --heads, --tied and --untied are for GPT-NeoX's folders; {} is none", model));
}

}  // namespace metala::cli
