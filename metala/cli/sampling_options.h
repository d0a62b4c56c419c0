// The flags that say how tokens are drawn, shared by the commands that draw.
#pragma once

#include <fmt/format.h>

#include <string>
#include <vector>

#include "metala/cli/checks.h"
#include "metala/generate/generation_config.h"

namespace metala::cli {

// Into `asked` and `stops`, what is given; `usual` only shows in the help. `max_tokens_check` is
// what
// --max-tokens must hold.
inline void add_sampling_options(CLI::App* command, GenerationConfig& asked,
                                 std::vector<std::string>& stops, const GenerationOptions& usual,
                                 const CLI::Validator& max_tokens_check) {
  command->footer(
      "What is not given is taken from the folder's generation_config.json, or else the default.");
  const auto add = [&](const char* flag, auto& value, auto otherwise, const char* what) {
    return command->add_option(flag, value, what)->default_str(fmt::format("{}", otherwise));
  };
  const sample::Options& s = usual.sampling;
  const auto share = [](double x) { return x >= 0 && x <= 1; };
  add("-n,--max-tokens", asked.max_new_tokens, usual.max_tokens, "Tokens to draw at most")
      ->check(max_tokens_check);
  add("--temperature", asked.temperature, s.temperature, "0 is greedy")->check(not_negative());
  add("--top-k", asked.top_k, s.top_k, "Keep the k likeliest; 0: all")->check(not_negative());
  add("--top-p", asked.top_p, s.top_p, "Keep the likeliest that reach probability p")
      ->check(number("above 0, at most 1", [](double x) { return x > 0 && x <= 1; }));
  add("--min-p", asked.min_p, s.min_p, "Drop below min-p times the likeliest")
      ->check(number("from 0 to 1", share));
  add("--repetition-penalty", asked.repetition_penalty, s.repetition_penalty,
      "Above 1: make tokens already present less likely")
      ->check(positive());
  command->add_option("--stop", stops, "Stop before this text; repeatable")
      ->check(CLI::Validator(
          [](const std::string& text) {
            return text.empty() ? "is empty; wanted a text to stop before" : std::string();
          },
          ""));
}

}  // namespace metala::cli
