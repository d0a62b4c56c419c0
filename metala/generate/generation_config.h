// How a model is meant to be drawn from: generation_config.json of its folder, and the command
// line, which asks for the same things. What is present replaces what was there before: defaults,
// then the file, then the request.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "metala/generate/generator.h"

namespace metala {

struct GenerationConfig {
  std::optional<std::vector<std::int32_t>> end_ids;  // eos_token_id: a number or a list
  std::optional<std::int32_t> bos_token_id, pad_token_id;
  std::optional<bool> do_sample;  // false: the likeliest token, unless a request has a temperature
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<std::int32_t> top_k;
  std::optional<std::int64_t> max_new_tokens;

  void apply_to(GenerationOptions& options) const;
};

// Unknown keys are ignored, null is absent. Throws Error "SOURCE: KEY is VALUE; wanted ..." for
// other types and for values out of range.
GenerationConfig parse_generation_config(const std::string& json, const std::string& source);

// generation_config.json of a model folder; nothing is present when there is no such file.
GenerationConfig load_generation_config(const std::string& folder);

}  // namespace metala
