// `metala convert` and `metala inspect` over the formats of other frameworks.
#include <nlohmann/json.hpp>

#include "program.h"

namespace metala {
namespace {

using namespace program;

const std::string foreign = METALA_SOURCE_DIR "/tests/foreign/";

TEST(Convert, EveryFormatLeadsToEveryOtherWithTheSamePredictions) {
  for (const char* from : {"safetensors", "torch_legacy", "torch_sharded", "neox_tp2"}) {
    for (const char* to : {"hf", "torch", "neox"}) {
      const Folder folder;
      const std::string there = folder / "there", back = folder / "back";
      const Outcome o = metala("convert --dtype f32 --to " + std::string(to) + " " + foreign +
                               from + " " + there);
      ASSERT_EQ(o.status, 0) << from << " to " << to << ": " << o.err;
      EXPECT_NE(o.out.find("KL 0 nats"), std::string::npos) << o.out;
      ASSERT_EQ(metala("convert --dtype f32 " + there + " " + back).status, 0);
      const Folder expected;
      ASSERT_EQ(metala("convert --dtype f32 " + foreign + "safetensors " + (expected / "x")).status,
                0);
      EXPECT_EQ(slurp(back + "/model.safetensors"), slurp(expected / "x/model.safetensors"));
    }
  }
}

TEST(Convert, SpecialTokensComeThroughGptNeoxWithTheTokenizer) {
  const Folder folder;
  const std::string shipped = METALA_SOURCE_DIR "/models/debian-en ";
  ASSERT_EQ(metala("convert --no-check --to neox " + shipped + (folder / "there")).status, 0);
  ASSERT_EQ(metala("convert --no-check " + (folder / "there ") + (folder / "back")).status, 0);
  EXPECT_EQ(slurp(folder / "back/config.json"),
            slurp(METALA_SOURCE_DIR "/models/debian-en/config.json"));
  std::filesystem::remove(folder / "there/tokenizer.model");
  const Outcome o = metala("convert --no-check " + (folder / "there ") + (folder / "bare"));
  EXPECT_NE(o.err.find("bos_token_id 1 and eos_token_id 2 are assumed"), std::string::npos)
      << o.err;
}

TEST(Convert, WhatSaysHowAModelIsUsedGoesAlong) {
  const Folder folder;
  std::filesystem::copy(foreign + "safetensors", folder / "in");
  std::filesystem::create_directory(folder / "in/additional_chat_templates");
  const std::string files[] = {"generation_config.json", "chat_template.jinja",
                               "additional_chat_templates/tool_use.jinja"};
  for (const auto& file : files) spill(folder / ("in/" + file), "{}");
  const Outcome o = metala("convert " + (folder / "in ") + (folder / "out"));
  EXPECT_EQ(o.status, 0) << o.err;
  for (const auto& file : files) EXPECT_EQ(slurp(folder / ("out/" + file)), "{}") << file;
}

TEST(Convert, ADestinationMayEndInASlash) {
  const Folder folder;
  const Outcome o = metala("convert " + foreign + "safetensors " + (folder / "out/"));
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_TRUE(std::filesystem::exists(folder / "out/config.json"));
}

TEST(Convert, TypesThatOtherFrameworksDoNotHaveAreMisuse) {
  const Folder folder;
  EXPECT_TRUE(refuses(
      metala("convert --to torch --dtype q8 " + foreign + "safetensors " + (folder / "out")), 2,
      "--to torch takes f32, bf16 and f16"));
  EXPECT_EQ(metala("convert --to onnx " + foreign + "safetensors " + (folder / "out")).status, 2);
}

TEST(Convert, OptionsSayWhatAGptNeoxFolderLeavesOpen) {
  const Folder folder;
  std::filesystem::copy(foreign + "neox", folder / "in");
  std::filesystem::remove(folder / "in/metala.yml");
  EXPECT_TRUE(refuses(metala("convert " + (folder / "in ") + (folder / "out")), 1, "give --heads"));
  const Outcome o = metala("convert --heads 2 --untied " + (folder / "in ") + (folder / "out"));
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.err.find("silu is assumed"), std::string::npos) << o.err;
}

TEST(Convert, OptionsWithoutEffectAreMisuse) {
  const Folder folder;
  const std::string convert = "convert " + foreign + "safetensors " + (folder / "out ");
  for (const char* option : {"--heads 2", "--untied", "--neox-config x.yml"}) {
    EXPECT_TRUE(refuses(metala(convert + option), 2, "are for GPT-NeoX's folders")) << option;
  }
  EXPECT_TRUE(refuses(metala("inspect --tied " + foreign + "safetensors"), 2, "GPT-NeoX's"));
  EXPECT_TRUE(refuses(metala(convert + "--tokens 5"), 2, "--tokens requires --text"));
  EXPECT_TRUE(refuses(metala(convert + "--calibrate-tokens 5"), 2, "requires --calibrate"));
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
}

TEST(Convert, AGptNeoxFolderThatIsUsedAsItIsPointsToIt) {
  EXPECT_TRUE(refuses(metala("generate " + foreign + "neox hi"), 1,
                      "is a checkpoint of GPT-NeoX; `metala convert "));
}

TEST(Convert, TiedEmbeddingsStayTiedThroughGptNeox) {
  const Folder folder;
  const std::string tied = METALA_SOURCE_DIR "/tests/golden/tied ";
  ASSERT_EQ(metala("convert --dtype f32 --to neox " + tied + (folder / "there")).status, 0);
  const Outcome o = metala("convert --dtype f32 " + (folder / "there ") + (folder / "back"));
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_NE(slurp(folder / "back/config.json").find("\"tie_word_embeddings\": true"),
            std::string::npos);
  std::filesystem::remove(folder / "there/metala.yml");
  EXPECT_TRUE(refuses(metala("convert --heads 2 " + (folder / "there ") + (folder / "again")), 1,
                      "or by --tied"));
  EXPECT_EQ(metala("convert --heads 2 --tied " + (folder / "there ") + (folder / "again")).status,
            0);
  EXPECT_EQ(metala("convert --tied --untied a b").status, 2);
}

TEST(Convert, ExportsPassVerificationAfterAWayThroughGptNeoxAndBack) {
  for (const char* model : {"tiny", "tied", "padded"}) {
    const Folder folder;
    const std::string golden = METALA_SOURCE_DIR "/tests/golden/" + std::string(model);
    const std::string back = folder / "back";
    ASSERT_EQ(metala("convert --dtype f32 --to neox " + golden + " " + (folder / "there")).status,
              0);
    ASSERT_EQ(metala("convert --dtype f32 " + (folder / "there") + " " + back).status, 0);
    EXPECT_EQ(slurp(back + "/model.safetensors"), slurp(golden + "/model.safetensors"));
    std::filesystem::copy(golden + "/expected.safetensors", back + "/expected.safetensors");
    const Outcome o = metala("verify " + back);
    EXPECT_EQ(o.status, 0) << model << o.out << o.err;
  }
}

TEST(Convert, BlocksAreRoundedForATextThatIsGiven) {
  const Folder folder;
  const std::string shipped = METALA_SOURCE_DIR "/models/debian-en ";
  const std::string text = " --calibrate " METALA_SOURCE_DIR "/LICENSE";
  const Outcome o = metala("convert --dtype q4 --no-check " + shipped + (folder / "out") + text +
                           " --calibrate-tokens 1000");
  ASSERT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.out.find("calibrated on 1024 tokens"), std::string::npos) << o.out;
  ASSERT_EQ(metala("convert --dtype q4 --no-check " + shipped + (folder / "plain")).status, 0);
  const std::string weights = slurp(folder / "out/model.safetensors");
  const std::string plain = slurp(folder / "plain/model.safetensors");
  EXPECT_EQ(weights.size(), plain.size());
  EXPECT_NE(weights, plain);
  EXPECT_TRUE(refuses(metala("convert --dtype bf16 " + shipped + (folder / "b") + text), 2,
                      "--calibrate is for --dtype q8 and q4"));
}

TEST(Inspect, ListsConfigurationTensorsAndTotals) {
  for (const auto& [name, tensors] : std::vector<std::pair<std::string, std::size_t>>{
           {"safetensors", 24}, {"torch_zip", 24}, {"torch_sharded", 24}, {"neox_tp2", 29}}) {
    const Outcome o = metala("inspect --json " + foreign + name);
    ASSERT_EQ(o.status, 0) << o.err;
    const auto report = nlohmann::json::parse(o.out);
    EXPECT_EQ(report["config"]["decoder_layers"], 2);
    EXPECT_EQ(report["tensors"].size(), tensors) << name;
    EXPECT_EQ(report["bytes"], report["elements"].get<int>() * 4);
    EXPECT_TRUE(report["problems"].empty());
    EXPECT_EQ(metala("inspect " + foreign + name).status, 0);
  }
}

TEST(Inspect, ListsOneFileOfTensorsOfAnyType) {
  const auto report =
      nlohmann::json::parse(metala("inspect --json " + foreign + "odd/legacy.pt").out);
  EXPECT_EQ(report["format"], "file");
  EXPECT_EQ(report["tensors"].size(), 12u);
  EXPECT_EQ(report["tensors"][0]["dtype"], "BF16");
  EXPECT_EQ(report["tensors"][0]["bytes"], 48);
}

TEST(Inspect, NamesOfTensorsStayOnTheirLine) {
  const Folder folder;
  const std::string header =
      R"({"a\n\u001b[2Jb": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}})";
  std::string file(8, '\0');
  file[0] = static_cast<char>(header.size());
  spill(folder / "odd.safetensors", file + header + "x");
  const Outcome o = metala("inspect " + (folder / "odd.safetensors"));
  EXPECT_EQ(o.status, 0) << o.err;
  EXPECT_NE(o.out.find("\na??[2Jb "), std::string::npos) << o.out;
}

TEST(Inspect, AModelThatCannotBeUsedIsListedAndFails) {
  const Folder folder;
  std::filesystem::copy(foreign + "torch_zip", folder / "in");
  std::string config = slurp(folder / "in/config.json");
  config.replace(config.find("24"), 2, "25");
  spill(folder / "in/config.json", config);
  const Outcome o = metala("inspect --json " + (folder / "in"));
  EXPECT_EQ(o.status, 1);
  const auto report = nlohmann::json::parse(o.out);
  EXPECT_EQ(report["tensors"].size(), 24u);
  ASSERT_EQ(report["problems"].size(), 1u);
  EXPECT_NE(report["problems"][0].get<std::string>().find("config.json says [25, 16]"),
            std::string::npos);
  std::filesystem::copy_file(METALA_SOURCE_DIR "/models/debian-en/tokenizer.model",
                             folder / "in/tokenizer.model");
  const Outcome with_tokenizer = metala("inspect " + (folder / "in"));
  EXPECT_NE(with_tokenizer.out.find("tokenizer: SentencePiece"), std::string::npos);
  EXPECT_NE(with_tokenizer.out.find("problem: "), std::string::npos);
}

}  // namespace
}  // namespace metala
