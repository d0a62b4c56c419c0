// Running the metala program in tests: its exit status and what it printed.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "metala/harness/temporary_folder.h"

namespace metala::program {

struct Outcome {
  int status = -1;
  std::string out, err;
};

inline void spill(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

using Folder = harness::TemporaryFolder;
using harness::slurp;

// `arguments` as a shell would read them; standard input is /dev/null unless redirected there.
// `before` is what the shell puts in front of the program.
inline Outcome metala(const std::string& arguments, const std::string& before = "") {
  const Folder folder;
  const std::string input = arguments.find('<') == std::string::npos ? " </dev/null" : "";
  const std::string line = before + " " + METALA_PROGRAM + " " + arguments + input + " >" +
                           (folder / "out") + " 2>" + (folder / "err");
  const int status = std::system(line.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), slurp(folder / "out"),
          slurp(folder / "err")};
}

// One line on stderr that holds `words`, the given status, nothing on stdout.
inline testing::AssertionResult refuses(const Outcome& o, int status, const std::string& words) {
  const auto lines = std::count(o.err.begin(), o.err.end(), '\n');
  if (o.status != status || o.err.find(words) == std::string::npos || lines != 1 ||
      !o.out.empty()) {
    return testing::AssertionFailure() << "status " << o.status << " (wanted " << status << "), "
                                       << lines << " lines on stderr:\n"
                                       << o.err << "stdout:\n"
                                       << o.out << "wanted one line with: " << words;
  }
  return testing::AssertionSuccess();
}

}  // namespace metala::program
