// Small models for tests: one configuration for each option of the architecture.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "metala/base/random.h"
#include "metala/model/language_model.h"

namespace metala::testing_models {

inline Config small_config() {
  Config c;
  c.vocab_size = 23;
  c.width = 12;
  c.layers = 2;
  c.heads = 2;
  c.glu_width = 10;
  c.tie_word_embeddings = false;
  c.query_width = 6;
  c.attention_scale = 0.57;
  return c;
}

// The released model and each extension, alone.
inline std::vector<std::pair<std::string, Config>> all_configs() {
  std::vector<std::pair<std::string, Config>> all;
  const auto add = [&](const char* name, auto change) {
    Config c = small_config();
    change(c);
    all.emplace_back(name, c);
  };
  add("released", [](Config&) {});
  add("tied embeddings", [](Config& c) { c.tie_word_embeddings = true; });
  add("layer norm", [](Config& c) { c.norm = NormType::layernorm; });
  add("scaled embedding", [](Config& c) { c.scale_embedding = true; });
  add("biased gelu", [](Config& c) {
    c.bias = true;
    c.glu_activation = glu::Activation::gelu;
  });
  add("projected key", [](Config& c) { c.key = KeyType::projected; });
  add("fixed decay", [](Config& c) { c.decay = DecayType::fixed; });
  add("no decay", [](Config& c) {
    c.decay = DecayType::none;
    c.key = KeyType::projected;
  });
  add("no convolution", [](Config& c) { c.short_conv_width = 0; });
  add("wide convolution", [](Config& c) { c.short_conv_width = 7; });
  add("no augmentation", [](Config& c) { c.self_augmentation = false; });
  add("MLP", [](Config& c) { c.channel_mixer = ChannelMixer::mlp; });
  add("identity channel mixer", [](Config& c) { c.channel_mixer = ChannelMixer::identity; });
  add("odd query width", [](Config& c) { c.query_width = 14; });
  add("warm decay", [](Config& c) { c.decay_temperature = 3; });
  return all;
}

// Weights large enough that every part of the model matters.
inline Parameters lively_parameters(Config config, DType type = DType::f64) {
  config.init_std = 0.4;
  Parameters p = Parameters::initialized(config, initialization_named("normal"), 7, type);
  for (const auto& [name, tensor] : p.tensors()) {
    if (!name.ends_with("aug_balance") && !name.ends_with("bias") && !name.ends_with("decay")) {
      continue;
    }
    const Philox random(11, hash_name(name));
    for (std::int64_t i = 0; i < tensor.count(); ++i) {
      const double x = 0.5 * random.normal(static_cast<std::uint64_t>(i));
      if (type == DType::f64) {
        tensor.data<double>()[i] = x;
      } else {
        tensor.data<float>()[i] = static_cast<float>(x);
      }
    }
  }
  return p;
}

inline std::vector<std::int32_t> random_ids(std::int64_t count, std::int64_t vocabulary,
                                            std::uint64_t seed) {
  const Philox random(seed);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<std::int32_t>(
        random.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(vocabulary))));
  }
  return ids;
}

}  // namespace metala::testing_models
