// `metala verify` on the golden folders: the authors' outputs, reproduced.
#include <nlohmann/json.hpp>

#include "metala/io/safetensors.h"
#include "program.h"

namespace metala {
namespace {

using namespace program;

const std::string golden = METALA_SOURCE_DIR "/tests/golden/";

class Golden : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Folders, Golden, testing::Values("tiny", "tied", "padded"));

TEST_P(Golden, FloatsReproduceLogitsStatesLossGradientsAndGreedyTokens) {
  const Outcome o = metala("verify --json " + golden + GetParam());
  ASSERT_EQ(o.status, 0) << o.err << o.out;
  const auto report = nlohmann::json::parse(o.out);
  EXPECT_EQ(report["greedy"]["equal"], report["greedy"]["compared"]);
  EXPECT_GT(report["greedy"]["compared"].get<int>(), 40);
  for (const auto& t : report["tensors"]) {
    const double relative = t["relative"];
    const double absolute = t["absolute"];
    if (t["name"] == "logits") {
      // 1e-5 of the largest logit and 2e-5 besides.
      EXPECT_LE(absolute, 1e-5 * (absolute / relative) + 2e-5) << t;
    } else {
      EXPECT_LE(relative, 1e-4) << t;
    }
  }
}

TEST_P(Golden, DoubleReproducesThemToTheGoldensOwnRounding) {
  const Outcome o = metala("verify --dtype f64 --tolerance 1e-6 " + golden + GetParam());
  EXPECT_EQ(o.status, 0) << o.err << o.out;
}

// Models with options that the released ones do not use, by an implementation of its own.
TEST(GoldenOptions, EveryOptionGivesTheLogitsStatesLossGradientsAndTokensOfAnotherImplementation) {
  int folders = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden + "options")) {
    const std::string folder = entry.path().string();
    for (const char* options : {"--dtype f64 --tolerance 1e-6 ", "--tolerance 1e-4 "}) {
      const Outcome o = metala("verify --json " + std::string(options) + folder);
      ASSERT_EQ(o.status, 0) << folder << ": " << o.err << o.out;
      const auto report = nlohmann::json::parse(o.out);
      EXPECT_GE(report["tensors"].size(), 16) << folder;
      const bool decodes = folder.find("bidirectional") == std::string::npos;
      EXPECT_GE(report["greedy"]["compared"].get<int>(), decodes ? 20 : 0) << folder;
    }
    ++folders;
  }
  EXPECT_EQ(folders, 26);
}

TEST(GoldenFolder, AToleranceThatCannotBeMetFails) {
  const Outcome o = metala("verify --tolerance 0 " + golden + "tiny");
  EXPECT_EQ(o.status, 1);
  EXPECT_NE(o.err.find("tolerance"), std::string::npos) << o.err;
}

TEST(GoldenFolder, TensorsThatNothingIsComparedWithAreRefusedByName) {
  const Folder copy;
  for (const char* file : {"config.json", "model.safetensors"}) {
    std::filesystem::copy_file(golden + "tiny/" + file, copy / file);
  }
  const auto expected = SafetensorsFile::open(golden + "tiny/expected.safetensors");
  std::map<std::string, Tensor> tensors;
  for (const auto& name : expected.names()) tensors.emplace(name, expected.tensor(name));
  const auto verify_with = [&](const std::map<std::string, Tensor>& changed) {
    auto all = tensors;
    for (const auto& [name, tensor] : changed) all.insert_or_assign(name, tensor);
    write_safetensors(copy / "expected.safetensors", all, {});
    return metala("verify " + (copy / ""));
  };
  EXPECT_EQ(verify_with({}).status, 0);
  for (const char* name : {"grad.model.layers.0.q_proj.weight", "state.99", "stale.0"}) {
    EXPECT_TRUE(refuses(verify_with({{name, Tensor::zeros({1})}}), 1,
                        std::string(name) + " is nothing that this model is compared with"));
  }
  EXPECT_TRUE(refuses(verify_with({{"loss", Tensor::zeros({2})}}), 1, "loss holds 2 numbers"));
}

TEST(GoldenFolder, ADifferentWeightIsNoticed) {
  const Folder copy;
  for (const char* file : {"config.json", "model.safetensors", "expected.safetensors"}) {
    std::filesystem::copy_file(golden + "tiny/" + file, copy / file);
  }
  std::string weights = slurp(copy / "model.safetensors");
  // The upper mantissa bits of one float: its value changes by a quarter or so.
  char& byte = weights[weights.size() - 1000 + 2];
  byte = static_cast<char>(byte ^ 0x40);
  spill(copy / "model.safetensors", weights);
  EXPECT_EQ(metala("verify " + (copy / "")).status, 1);
}

}  // namespace
}  // namespace metala
