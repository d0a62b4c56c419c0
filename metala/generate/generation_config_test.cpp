#include "metala/generate/generation_config.h"

#include <gtest/gtest.h>

#include "metala/base/error.h"
#include "metala/harness/refusal.h"
#include "metala/harness/temporary_folder.h"

namespace metala {
namespace {

std::string error_of(const std::string& json) {
  return harness::refusal_of([&] { parse_generation_config(json, "g.json"); });
}

TEST(GenerationConfig, EveryKeyIsReadAndUnknownOnesAreIgnored) {
  const auto c = parse_generation_config(
      R"({"eos_token_id": [2, 7], "bos_token_id": 1, "pad_token_id": 0, "do_sample": true,
          "temperature": 0.5, "top_k": 40, "top_p": 0.9, "min_p": 0.05,
          "repetition_penalty": 1.1, "max_new_tokens": 99, "transformers_version": "4.1",
          "_from_model_config": true})",
      "g.json");
  EXPECT_EQ(c.end_ids, (std::vector<std::int32_t>{2, 7}));
  EXPECT_EQ(c.bos_token_id, 1);
  EXPECT_EQ(c.pad_token_id, 0);
  EXPECT_EQ(c.do_sample, true);
  EXPECT_EQ(c.temperature, 0.5);
  EXPECT_EQ(c.top_k, 40);
  EXPECT_EQ(c.top_p, 0.9);
  EXPECT_EQ(c.min_p, 0.05);
  EXPECT_EQ(c.repetition_penalty, 1.1);
  EXPECT_EQ(c.max_new_tokens, 99);
}

TEST(GenerationConfig, WhatIsAbsentOrNullChangesNothing) {
  const auto c = parse_generation_config(R"({"top_k": null, "eos_token_id": 3})", "g.json");
  EXPECT_FALSE(c.top_k.has_value());
  GenerationOptions options;
  options.sampling.temperature = 0.25;
  options.sampling.top_k = 5;
  options.end_ids = {9};
  c.apply_to(options);
  EXPECT_EQ(options.sampling.temperature, 0.25);
  EXPECT_EQ(options.sampling.top_k, 5);
  EXPECT_EQ(options.max_tokens, 256);
  EXPECT_EQ(options.end_ids, std::vector<std::int32_t>{3});
}

TEST(GenerationConfig, ARequestReplacesTheFilesValues) {
  const auto file = parse_generation_config(
      R"({"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 7})", "g.json");
  GenerationConfig request;
  request.temperature = 0.8;
  GenerationOptions options;
  file.apply_to(options);
  request.apply_to(options);
  EXPECT_EQ(options.sampling.temperature, 0.8);
  EXPECT_EQ(options.sampling.top_p, 0.9);
  EXPECT_EQ(options.max_tokens, 7);
}

TEST(GenerationConfig, WithoutSamplingTheLikeliestIsTakenUnlessARequestHasATemperature) {
  const auto file =
      parse_generation_config(R"({"do_sample": false, "temperature": 0.5})", "g.json");
  GenerationOptions options;
  file.apply_to(options);
  EXPECT_EQ(options.sampling.temperature, 0);
  GenerationConfig request;
  request.temperature = 0.8;
  request.apply_to(options);
  EXPECT_EQ(options.sampling.temperature, 0.8);
}

TEST(GenerationConfig, WrongTypesAndRangesAreRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {
      {"[]", "g.json: not a JSON object"},
      {R"({"top_k": 1.5})", "g.json: top_k is 1.5; wanted a whole number of 0 (all) or more"},
      {R"({"top_k": -1})", "g.json: top_k is -1; wanted a whole number of 0 (all) or more"},
      {R"({"top_k": 2147483648})",
       "g.json: top_k is 2147483648; wanted a whole number of 0 (all) or more"},
      {R"({"max_new_tokens": 18446744073709551615})",
       "g.json: max_new_tokens is 18446744073709551615; wanted a whole number of 0 or more"},
      {R"({"top_p": 0})", "g.json: top_p is 0; wanted a number above 0, at most 1"},
      {R"({"min_p": 2})", "g.json: min_p is 2; wanted a number from 0 to 1"},
      {R"({"temperature": "hot"})", "g.json: temperature is \"hot\"; wanted a number of 0 or more"},
      {R"({"repetition_penalty": 0})", "g.json: repetition_penalty is 0; wanted a number above 0"},
      {R"({"do_sample": 1})", "g.json: do_sample is 1; wanted true or false"},
      {R"({"eos_token_id": "2"})",
       "g.json: eos_token_id is \"2\"; wanted a token id or a list of them"},
      {R"({"eos_token_id": [2, -1]})",
       "g.json: eos_token_id is [2,-1]; wanted a token id or a list of them"},
      {R"({"bos_token_id": true})", "g.json: bos_token_id is true; wanted a token id"},
  };
  for (const auto& [json, message] : cases) EXPECT_EQ(error_of(json), message);
}

TEST(GenerationConfig, AFolderWithoutTheFileAsksForNothing) {
  const harness::TemporaryFolder folder;
  EXPECT_FALSE(load_generation_config(folder.path()).temperature.has_value());
  folder.spill("generation_config.json", R"({"temperature": 0.75})");
  EXPECT_EQ(load_generation_config(folder.path()).temperature, 0.75);
}

}  // namespace
}  // namespace metala
