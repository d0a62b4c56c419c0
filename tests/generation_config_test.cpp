// `metala generate` and a folder's generation_config.json.
#include <nlohmann/json.hpp>

#include "program.h"

namespace metala {
namespace {

using namespace program;

class GenerationConfigFile : public testing::Test {
 protected:
  GenerationConfigFile() {
    const std::string model = METALA_SOURCE_DIR "/models/debian-en/";
    for (const char* file : {"config.json", "model.safetensors", "tokenizer.model"}) {
      std::filesystem::copy_file(model + file, folder_ / file);
    }
  }

  nlohmann::json generate(const std::string& config, const std::string& flags) const {
    spill(folder_ / "generation_config.json", config);
    const Outcome o = metala("generate --json " + (folder_ / "") + " 'The kernel' " + flags);
    EXPECT_EQ(o.status, 0) << o.err;
    return nlohmann::json::parse(o.out)["sequences"][0];
  }

  Folder folder_;
};

TEST_F(GenerationConfigFile, IsFollowedWhereNoFlagSaysOtherwise) {
  const auto greedy = generate("{}", "--greedy -n 9");
  EXPECT_EQ(generate(R"({"do_sample": false, "max_new_tokens": 9})", "")["ids"], greedy["ids"]);
  EXPECT_EQ(generate(R"({"do_sample": false, "max_new_tokens": 9})", "-n 4")["ids"].size(), 4u);
  EXPECT_EQ(generate(R"({"temperature": 3.0, "max_new_tokens": 9})", "--greedy")["ids"],
            greedy["ids"]);
  const auto sampled = generate("{}", "--temperature 0.7 --top-k 40 -n 9 --seed 3");
  EXPECT_EQ(generate(R"({"temperature": 0.7, "top_k": 40})", "-n 9 --seed 3")["ids"],
            sampled["ids"]);
  EXPECT_EQ(
      generate(R"({"temperature": 0.1, "top_k": 40})", "--temperature 0.7 -n 9 --seed 3")["ids"],
      sampled["ids"]);
}

TEST_F(GenerationConfigFile, NamesTheIdsThatEndAText) {
  const auto greedy = generate("{}", "--greedy -n 9");
  const std::string fifth = greedy["ids"][4].dump();
  const std::string config = R"({"eos_token_id": [1, )" + fifth + "]}";
  const auto ended = generate(config, "--greedy -n 9");
  EXPECT_EQ(ended["finish"], "end");
  EXPECT_LE(ended["ids"].size(), 5u);
  EXPECT_EQ(generate(config, "--greedy -n 9 --ignore-end")["ids"], greedy["ids"]);
}

TEST_F(GenerationConfigFile, IsRefusedByNameWhenItIsWrong) {
  spill(folder_ / "generation_config.json", R"({"top_p": 3})");
  EXPECT_TRUE(refuses(metala("generate " + (folder_ / "") + " x"), 1,
                      "generation_config.json: top_p is 3; wanted a number above 0, at most 1"));
}

}  // namespace
}  // namespace metala
