// Config: everything that fixes a model's architecture, under the keys of Hugging Face's
// config.json plus our extensions. Read from a file, never compiled in.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "metala/ops/glu/glu.h"

namespace metala {

enum class NormType { simplermsnorm, layernorm };
enum class KeyType { tied, projected };
enum class DecayType { dynamic, fixed, none };
enum class ChannelMixer { glu, mlp, identity };

struct Config {
  // The released model's keys. The comment is the config.json key where it differs.
  std::int64_t vocab_size = 32000;
  std::int64_t width = 1024;      // decoder_embed_dim, d
  std::int64_t layers = 24;       // decoder_layers, L
  std::int64_t heads = 8;         // decoder_attention_heads, H
  std::int64_t glu_width = 5632;  // glu_dim, f; -1 in the file means d and is resolved here
  glu::Activation glu_activation = glu::Activation::silu;  // glu_act
  bool bias = false;                                       // biases of the channel mixer
  NormType norm = NormType::simplermsnorm;                 // norm_type
  bool scale_embedding = false;  // no_scale_embedding, negated: embeddings times sqrt(d)
  bool tie_word_embeddings = true;
  std::int32_t pad_token_id = 2;
  std::int32_t bos_token_id = 1;
  std::vector<std::int32_t> eos_token_ids = {2};  // eos_token_id: a number or a list
  bool add_bos_token = false;
  double init_std = 0.02;

  // Extensions; absent means the released model.
  std::int64_t query_width = 512;     // query_dim, dk; absent: d/2
  std::int64_t short_conv_width = 4;  // W; 0: no convolution and no SiLU
  KeyType key = KeyType::tied;
  DecayType decay = DecayType::dynamic;
  double decay_temperature = 16;
  double attention_scale = 0.125;  // absent: K^(-1/2)
  bool self_augmentation = true;
  bool bidirectional = false;
  ChannelMixer channel_mixer = ChannelMixer::glu;
  double embedding_dropout = 0;
  double hidden_dropout = 0;

  std::int64_t key_width() const { return query_width / heads; }  // K
  std::int64_t value_width() const { return width / heads; }      // D
};

struct ParsedConfig {
  Config config;
  std::vector<std::string> notes;  // keys that were ignored, worth telling the user
};

// `source` names the file in errors. Throws Error naming file and key:
//   config.json: glu_act is "swoosh"; supported: silu, gelu, ...
ParsedConfig parse_config(const std::string& json, const std::string& source);

// config.json as the authors' class writes it: its own keys always, extensions only where they
// differ from its behaviour. `dtype` is the torch_dtype entry: "float32", "bfloat16", "float16".
std::string config_json(const Config&, const std::string& dtype);

// Throws Error for sizes that contradict each other (heads that do not divide widths, K or D
// outside 1..256, ...). parse_config calls it; so must whoever fills a Config by hand.
void check_config(const Config&, const std::string& source);

}  // namespace metala
