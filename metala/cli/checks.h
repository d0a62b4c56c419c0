// Ranges of option values, refused in a few words.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <system_error>

namespace metala::cli {

// Whether all of `text` is a whole number that T holds. CLI11 would take the nearest that it does.
template <class T>
bool is_whole(const std::string& text) {
  T value = 0;
  const char* const end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, value);
  return read.ec == std::errc() && read.ptr == end;
}

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
            if (!holds(value)) return fmt::format("is {}; wanted a number {}", text, wanted);
            const bool digits = text.find_first_not_of("0123456789") == std::string::npos;
            return digits && !is_whole<std::int64_t>(text)
                       ? fmt::format("is {}; wanted a number below 2^63", text)
                       : std::string();
          },
          ""};
}

inline CLI::Validator positive() {
  return number("above 0", [](double x) { return x > 0; });
}

inline CLI::Validator not_negative() {
  return number("of 0 or more", [](double x) { return x >= 0; });
}

inline CLI::Validator seed() {
  return {[](const std::string& text) {
            return is_whole<std::uint64_t>(text)
                       ? std::string()
                       : fmt::format("is {}; wanted a whole number from 0 to 2^64 - 1", text);
          },
          ""};
}

inline void add_device(CLI::App* command, std::string& device) {
  command->add_option("--device", device, "Where to run: cpu, cuda or cuda:NUMBER")
      ->capture_default_str();
}

}  // namespace metala::cli
