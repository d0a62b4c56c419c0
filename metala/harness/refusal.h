// What a test's subject refuses, and in which words.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "metala/base/error.h"

namespace metala::harness {

// The message of the Error that f throws; "accepted" when it throws none.
template <class F>
std::string refusal_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

// Whether f throws an Error that holds these words.
template <class F>
testing::AssertionResult refuses(F&& f, const std::string& words) {
  const std::string message = refusal_of(f);
  if (message.find(words) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << message << " (wanted: " << words << ")";
}

}  // namespace metala::harness
