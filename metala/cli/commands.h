// The program's commands: one file each, which declares its options and what to run.
#pragma once

#include <CLI/CLI.hpp>

namespace metala::cli {

void add_generate(CLI::App&);
void add_chat(CLI::App&);
void add_train(CLI::App&);
void add_data(CLI::App&);
void add_plot(CLI::App&);
void add_convert(CLI::App&);
void add_inspect(CLI::App&);
void add_tokenize(CLI::App&);
void add_verify(CLI::App&);
void add_doctor(CLI::App&);
void add_bench(CLI::App&);

}  // namespace metala::cli
