// What a GPT-NeoX folder leaves open, as options of a command.
#pragma once

#include <CLI/CLI.hpp>

#include "metala/cli/checks.h"
#include "metala/model/neox.h"

namespace metala::cli {

inline void add_neox(CLI::App* command, NeoxOptions& neox) {
  command->add_option("--neox-config", neox.config,
                      "The YAML of a GPT-NeoX folder; else the only one in it");
  command->add_option("--heads", neox.heads, "Heads of a GPT-NeoX folder without a YAML")
      ->check(positive());
  command->add_flag("--tied,!--untied", neox.tied,
                    "Whether a GPT-NeoX folder without a YAML ties its embeddings");
}

}  // namespace metala::cli
