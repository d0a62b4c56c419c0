// Ranges of option values, refused in a few words.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <string>

namespace metala::cli {

// A number with `holds(number)`; `wanted` says which: "more than 0".
template <class Holds>
CLI::Validator number(const char* wanted, Holds holds) {
  return {[=](const std::string& text) {
            double value = NAN;
            try {
              value = std::stod(text);
            } catch (const std::exception&) {
              // stays not a number, which nothing holds for
            }
            return holds(value) ? std::string()
                                : fmt::format("is {}; wanted a number {}", text, wanted);
          },
          ""};
}

inline CLI::Validator positive() {
  return number("above 0", [](double x) { return x > 0; });
}

inline CLI::Validator not_negative() {
  return number("of 0 or more", [](double x) { return x >= 0; });
}

inline void add_device(CLI::App* command, std::string& device) {
  command->add_option("--device", device, "Where to run: cpu, cuda or cuda:NUMBER")
      ->capture_default_str();
}

}  // namespace metala::cli
