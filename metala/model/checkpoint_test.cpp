#include "metala/model/checkpoint.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "metala/harness/compare.h"
#include "metala/harness/refusal.h"
#include "metala/harness/temporary_folder.h"
#include "metala/harness/test_models.h"
#include "metala/io/file.h"
#include "metala/io/safetensors.h"
#include "metala/model/state.h"

namespace metala {
namespace {

using namespace harness;
using namespace testing_models;

TEST(Checkpoint, WeightsInBlocksComeBackBitForBitAndNearWhatTheyWere) {
  const TemporaryFolder folder;
  Config config = small_config();
  config.width = 64;
  config.query_width = 32;
  config.glu_width = 128;
  const Parameters parameters = Parameters::initialized(config, initialization_named("normal"), 7);
  for (const auto type : {DType::q8, DType::q4}) {
    save_checkpoint(folder.path(), config, parameters.tensors(), type);
    const Checkpoint loaded = load_checkpoint(folder.path());
    check_finite(loaded.tensors, folder.path());
    const auto& l1 = loaded.tensors.at("model.layers.0.channel_mixer.l1.weight");
    EXPECT_EQ(l1.dtype(), type);
    EXPECT_EQ(l1.shape(), (Shape{128, 64}));
    EXPECT_EQ(loaded.tensors.at("model.embed_tokens.weight").dtype(), DType::q8);
    EXPECT_EQ(loaded.tensors.at("model.layers.0.token_mixer.k_gate.weight").dtype(), DType::bf16);
    EXPECT_EQ(loaded.tensors.at("model.layers.0.token_mixer.conv1d.weight").dtype(), DType::f32);
    const Tensor original = parameters.tensors().at("model.layers.0.channel_mixer.l1.weight");
    EXPECT_TRUE(close(l1.cast(DType::f32), original, type == DType::q8 ? 4e-3 : 1.5e-1));
    save_checkpoint(folder.path() + "/again", config, loaded.tensors, type);
    const auto again = load_checkpoint(folder.path() + "/again").tensors;
    for (const auto& [name, tensor] : loaded.tensors) {
      EXPECT_TRUE(std::memcmp(tensor.raw(), again.at(name).raw(), tensor.bytes()) == 0) << name;
    }
  }
}

TEST(Checkpoint, EveryKindOfModelIsWrittenAndReadBackBitForBit) {
  for (const auto& [name, config] : all_configs()) {
    const TemporaryFolder folder;
    const Parameters p = lively_parameters(config, DType::f32);
    save_checkpoint(folder.path(), config, p.tensors());
    const Checkpoint read = load_checkpoint(folder.path());
    EXPECT_EQ(read.tensors.size(), p.tensors().size()) << name;
    for (const auto& [tensor, value] : p.tensors()) {
      EXPECT_TRUE(same_bits(read.tensors.at(tensor), value)) << name << ": " << tensor;
    }
    EXPECT_EQ(fingerprint(read.config, read.tensors), fingerprint(config, p.tensors())) << name;
  }
}

TEST(Checkpoint, HalfPrecisionIsRoundedShardedAndStillLoads) {
  const Config config = small_config();
  const Parameters p = lively_parameters(config, DType::f32);
  const TemporaryFolder folder;
  save_checkpoint(folder.path(), config, p.tensors(), DType::bf16, 700);
  const Checkpoint read = load_checkpoint(folder.path());
  EXPECT_EQ(read.tensors.at("lm_head.weight").dtype(), DType::bf16);
  EXPECT_TRUE(close(read.tensors.at("lm_head.weight"), p.tensors().at("lm_head.weight"), 4e-3));
  LanguageModel(read.config, Parameters(read.tensors));
}

TEST(Checkpoint, MissingMisshapenExtraAndDamagedTensorsAreNamed) {
  const Config config = small_config();
  const Parameters p = lively_parameters(config, DType::f32);
  const TemporaryFolder folder;
  save_checkpoint(folder.path(), config, p.tensors());
  const auto after = [&](const std::function<void(std::map<std::string, Tensor>&)>& change) {
    auto tensors = p.tensors();
    change(tensors);
    write_safetensors(folder / "model.safetensors", tensors, {});
    return refusal_of([&] { load_checkpoint(folder.path()); });
  };
  const std::string gate = "model.layers.1.token_mixer.k_gate.weight";
  EXPECT_NE(after([&](auto& t) { t.erase(gate); }).find(gate + " is missing"), std::string::npos);
  EXPECT_NE(after([&](auto& t) {
              t[gate] = Tensor::zeros({6, 13});
            }).find(gate + " is [6, 13]; config.json says [6, 12]"),
            std::string::npos);
  EXPECT_NE(after([&](auto& t) { t["surprise"] = Tensor::zeros({1}); }).find("surprise"),
            std::string::npos);
  EXPECT_NE(after([&](auto& t) {
              t[gate] = Tensor::zeros({6, 12}, DType::i32);
            }).find("i32"),
            std::string::npos);

  const Tensor weight = p.tensors().at(gate);
  weight.data<float>()[17] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(refusal_of([&] { check_finite(p.tensors(), "DIR"); }).find(gate + " holds NaN"),
            std::string::npos);
  weight.data<float>()[17] = std::numeric_limits<float>::infinity();
  EXPECT_NE(refusal_of([&] { check_finite(p.tensors(), "DIR"); }).find(gate), std::string::npos);
  weight.data<float>()[17] = std::numeric_limits<float>::max();
  EXPECT_EQ(refusal_of([&] { check_finite(p.tensors(), "DIR"); }), "accepted");
}

TEST(Checkpoint, ATiedModelMayKeepItsMatrixUnderEitherNameOrBoth) {
  Config config = small_config();
  config.tie_word_embeddings = true;
  const Parameters p = lively_parameters(config, DType::f32);
  const Tensor matrix = p.tensors().at("model.embed_tokens.weight");
  const TemporaryFolder folder;
  save_checkpoint(folder.path(), config, p.tensors());
  auto tensors = p.tensors();
  tensors["lm_head.weight"] = matrix;
  write_safetensors(folder / "model.safetensors", tensors, {});
  EXPECT_TRUE(load_checkpoint(folder.path()).notes.empty());
  tensors.erase("model.embed_tokens.weight");
  write_safetensors(folder / "model.safetensors", tensors, {});
  EXPECT_TRUE(
      same_bits(load_checkpoint(folder.path()).tensors.at("model.embed_tokens.weight"), matrix));
  tensors["model.embed_tokens.weight"] = Tensor::zeros(matrix.shape());
  write_safetensors(folder / "model.safetensors", tensors, {});
  EXPECT_EQ(load_checkpoint(folder.path()).notes.size(), 1u);
}

TEST(Checkpoint, AnyChangedBitChangesTheFingerprint) {
  const Config config = small_config();
  const Parameters p = lively_parameters(config, DType::f32);
  const std::string before = fingerprint(config, p.tensors());
  float& weight = p.tensors().at("lm_head.weight").data<float>()[100];
  weight = std::nextafter(weight, 10.0f);
  EXPECT_NE(fingerprint(config, p.tensors()), before);
  Config other = config;
  other.heads = 1;
  weight = std::nextafter(weight, -10.0f);
  EXPECT_EQ(fingerprint(config, p.tensors()), before);
  EXPECT_NE(fingerprint(other, p.tensors()), before);
}

TEST(State, SavedAndLoadedItContinuesWithTheSameBits) {
  const Config config = small_config();
  const LanguageModel model(config, lively_parameters(config, DType::f32));
  Arena arena;
  State state(config, 2);
  const auto ids = random_ids(30, config.vocab_size, 1);
  const std::vector<std::int64_t> offsets = {0, 10, 30};
  model.advance(arena, {ids, offsets}, state);
  const TemporaryFolder folder;
  state.save(folder / "s.safetensors", "f00d");
  State loaded = State::load(folder / "s.safetensors", config, "f00d");
  EXPECT_EQ(loaded.tokens(), state.tokens());
  EXPECT_TRUE(same_bits(loaded.logits(), state.logits()));
  const std::vector<std::int32_t> next = {3, 4};
  const std::vector<std::int64_t> one = {0, 1, 2};
  model.advance(arena, {next, one}, state);
  model.advance(arena, {next, one}, loaded);
  EXPECT_TRUE(same_bits(loaded.logits(), state.logits()));
}

TEST(State, AForkGoesItsOwnWayAndLeavesTheOriginalAlone) {
  const Config config = small_config();
  const LanguageModel model(config, lively_parameters(config, DType::f32));
  Arena arena;
  State state(config, 1);
  const auto ids = random_ids(9, config.vocab_size, 1);
  const std::vector<std::int64_t> offsets = {0, 9};
  model.advance(arena, {ids, offsets}, state);
  const Tensor before = state.logits().copy();
  State forks = state.select({0, 0, 0});
  const std::vector<std::int32_t> next = {1, 2, 1};
  const std::vector<std::int64_t> one = {0, 1, 2, 3};
  model.advance(arena, {next, one}, forks);
  EXPECT_TRUE(same_bits(state.logits(), before));
  EXPECT_TRUE(close(forks.logits().row(0), forks.logits().row(2), 1e-6));
  EXPECT_FALSE(close(forks.logits().row(0), forks.logits().row(1), 1e-3));
}

TEST(State, AnotherModelsStateAndADamagedOneAreRefused) {
  const Config config = small_config();
  const TemporaryFolder folder;
  const std::string path = folder / "s.safetensors";
  State(config, 1).save(path, "f00d");
  const auto load = [&](const Config& c, const char* print) {
    return refusal_of([&] { State::load(path, c, print); });
  };
  EXPECT_EQ(load(config, "f00d"), "accepted");
  EXPECT_NE(load(config, "beef").find("the state of another model"), std::string::npos);
  Config wider = config;
  wider.query_width = 12;
  EXPECT_NE(load(wider, "f00d").find("recurrent.0"), std::string::npos);
  write_safetensors(path, {{"w", Tensor::zeros({1})}}, {});
  EXPECT_NE(load(config, "f00d").find("not a state file"), std::string::npos);
  State(config, 0).save(path, "f00d");
  EXPECT_NE(load(config, "f00d").find("holds no sequence"), std::string::npos);
  State read(config, 1);
  read.tokens() = {5};
  read.save(path, "f00d");
  EXPECT_NE(load(config, "f00d").find("logits is missing"), std::string::npos);
}

}  // namespace
}  // namespace metala
