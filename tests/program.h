// Running the metala program in tests: its exit status and what it printed.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

namespace metala::program {

struct Outcome {
  int status = -1;
  std::string out, err;
};

// What there is to read; files of /proc may go away while they are read.
inline std::string slurp(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

inline void spill(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

// A folder of its own, removed at the end.
class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "metala-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

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
