// The parts of `metala data`.
#pragma once

#include <CLI/CLI.hpp>

namespace metala::cli {

void add_data_prepare(CLI::App& data);
void add_data_show(CLI::App& data);
void add_data_stats(CLI::App& data);
void add_data_merge(CLI::App& data);
void add_data_split(CLI::App& data);

}  // namespace metala::cli
