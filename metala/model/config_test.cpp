#include "metala/model/config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "metala/base/error.h"
#include "metala/harness/test_models.h"

namespace metala {
namespace {

TEST(Config, AbsentKeysHaveTheReleasedClasssDefaults) {
  const Config c = parse_config("{}", "config.json").config;
  EXPECT_EQ(c.vocab_size, 32000);
  EXPECT_EQ(c.width, 1024);
  EXPECT_EQ(c.layers, 24);
  EXPECT_EQ(c.heads, 8);
  EXPECT_EQ(c.glu_width, 5632);
  EXPECT_TRUE(c.tie_word_embeddings);
  EXPECT_FALSE(c.scale_embedding);
  EXPECT_EQ(c.query_width, 512);
  EXPECT_EQ(c.short_conv_width, 4);
  EXPECT_DOUBLE_EQ(c.attention_scale, 0.125);
  EXPECT_EQ(c.eos_token_ids, std::vector<std::int32_t>{2});
}

TEST(Config, AGluWidthOfMinusOneIsTheModelsWidth) {
  EXPECT_EQ(parse_config(R"({"glu_dim": -1})", "c").config.glu_width, 1024);
}

TEST(Config, EveryOptionSurvivesBeingWrittenAndRead) {
  for (auto [name, config] : testing_models::all_configs()) {
    config.eos_token_ids = {2, 5};
    config.hidden_dropout = 0.25;
    const std::string text = config_json(config, "float32");
    const ParsedConfig parsed = parse_config(text, "config.json");
    EXPECT_EQ(config_json(parsed.config, "float32"), text) << name;
    EXPECT_TRUE(parsed.notes.empty()) << name << ": " << parsed.notes.front();
    EXPECT_EQ(parsed.config.decay, config.decay) << name;
    EXPECT_EQ(parsed.config.attention_scale, config.attention_scale) << name;
  }
}

TEST(Config, TheReleasedModelsFileHoldsNoExtension) {
  const auto json = nlohmann::json::parse(config_json(parse_config("{}", "c").config, "bfloat16"));
  for (const char* key : {"query_dim", "key", "decay", "attention_scale", "channel_mixer"}) {
    EXPECT_FALSE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["torch_dtype"], "bfloat16");
  EXPECT_EQ(json["architectures"][0], "MetaLAForCausalLM");
}

TEST(Config, UnknownKeysAreNotedAndFrameworkKeysAreNot) {
  const auto parsed = parse_config(R"({"rope_theta": 1, "use_cache": true})", "config.json");
  ASSERT_EQ(parsed.notes.size(), 1u);
  EXPECT_NE(parsed.notes[0].find("rope_theta"), std::string::npos);
}

TEST(Config, WhatCannotBeRunIsRefusedNamingFileAndKey) {
  const std::pair<const char*, const char*> bad[] = {
      {R"([])", "wanted a JSON object"},
      {R"({"model_type": "llama"})", "model_type"},
      {R"({"glu_act": "swoosh"})", "glu_act"},
      {R"({"causal": false})", "bidirectional"},
      {R"({"decay": "none"})", "key \"projected\""},
      {R"({"decay": "slow"})", "supported: dynamic, fixed, none"},
      {R"({"decoder_attention_heads": 3})", "must divide"},
      {R"({"decoder_attention_heads": 2})", "up to 256"},
      {R"({"decoder_layers": 0})", "decoder_layers"},
      {R"({"decoder_layers": 99999999999})", "decoder_layers"},
      {R"({"vocab_size": "many"})", "whole number"},
      {R"({"vocab_size": 1e3})", "whole number"},
      {R"({"vocab_size": 18446744073709551615})", "is 18446744073709551615; wanted a whole number"},
      {R"({"glu_dim": 18446744073709551615})", "is 18446744073709551615; wanted a whole number"},
      {R"({"short_conv_width": 17})", "short_conv_width"},
      {R"({"hidden_dropout": 1})", "hidden_dropout"},
      {R"({"bias": 1})", "true or false"},
      {R"({"eos_token_id": "</s>"})", "eos_token_id"},
      {R"({"decay_temperature": 0})", "decay_temperature"},
      {R"({"vocab_size": 5, "vocab_size": 6})", "given twice"},
      {"{\"glu_act\": \"\xff\"}", "not valid JSON"},
  };
  for (const auto& [text, words] : bad) {
    try {
      parse_config(text, "config.json");
      ADD_FAILURE() << "accepted: " << text;
    } catch (const Error& e) {
      const std::string message = e.what();
      EXPECT_NE(message.find(words), std::string::npos) << text << ": " << message;
      EXPECT_TRUE(message.starts_with("config.json: ")) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
  }
}

}  // namespace
}  // namespace metala
