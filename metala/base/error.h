// The one exception type for what a caller, a file or a machine can get wrong.
//
// A message is one line that names the thing, what came, what was wanted and, where it helps, what
// to do; the command line turns it into a line and an exit status. What only a bug of ours can
// break is an assert.
#pragma once

#ifndef __CUDACC__  // nvcc cannot compile fmt 9; kernels have device/cuda/cuda_error.h
#include <fmt/format.h>
#endif

#include <stdexcept>
#include <string>
#include <utility>

namespace metala {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The command was called wrongly (exit status 2), as against a file or machine that failed (1).
class UsageError : public Error {
 public:
  using Error::Error;
};

#ifndef __CUDACC__
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
void require(bool holds, fmt::format_string<Args...> format, Args&&... args) {
  if (!holds) fail(format, std::forward<Args>(args)...);
}
#endif

}  // namespace metala
