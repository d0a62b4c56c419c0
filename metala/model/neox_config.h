// What a GPT-NeoX run's YAML says about its model, as far as its weights do not.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace metala {

// Absent values were not given.
struct NeoxConfig {
  std::optional<std::int64_t> layers;       // num_layers
  std::optional<std::int64_t> width;        // hidden_size
  std::optional<std::int64_t> heads;        // num_attention_heads
  std::optional<bool> untied;               // no_weight_tying
  std::optional<std::string> norm;          // norm
  std::optional<std::string> activation;    // activation
  std::optional<double> rms_norm_epsilon;   // rms_norm_epsilon
  std::optional<double> layernorm_epsilon;  // layernorm_epsilon
  std::optional<double> init_method_std;    // init_method_std
};

// `-` in a key stands for `_`, as in GPT-NeoX; keys about other things are passed over. Throws
// Error naming the file and the key or line.
NeoxConfig parse_neox_config(const std::string& yaml, const std::string& source);

}  // namespace metala
