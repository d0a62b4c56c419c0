#include "metala/model/neox.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "metala/base/error.h"
#include "metala/harness/compare.h"
#include "metala/harness/random_tensor.h"
#include "metala/harness/temporary_folder.h"
#include "metala/harness/torch_builder.h"
#include "metala/io/torch_file.h"
#include "metala/io/torch_writer.h"
#include "metala/model/neox_config.h"
#include "metala/model/neox_writer.h"

namespace metala {
namespace {

using namespace harness;

using Layer = std::map<std::string, Tensor>;

const std::string foreign = METALA_SOURCE_DIR "/tests/foreign/";

std::string layer_file(int index, int part = 0) {
  return fmt::format("layer_{:02}-model_{:02}-model_states.pt", index, part);
}

Config tiny() {
  Config c;
  c.vocab_size = 12;
  c.width = 8;
  c.query_width = 4;
  c.layers = 2;
  c.heads = 2;
  c.glu_width = 6;
  c.attention_scale = 1 / std::sqrt(2.0);
  c.tie_word_embeddings = false;
  return c;
}

Layer random_tensors(const Config& config) {
  Layer tensors;
  for (const auto& spec : expected_tensors(config)) {
    tensors.emplace(spec.name, random_normal(spec.shape, DType::f32, hash_name(spec.name)));
  }
  return tensors;
}

void expect_refusal_of(const std::string& path, const std::string& reason,
                       const NeoxOptions& options = {}) {
  try {
    load_neox(path, options);
    ADD_FAILURE() << "loaded, wanted: " << reason;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
  }
}

// A saved model whose files tests change.
class Saved {
 public:
  explicit Saved(const Config& config = tiny()) : tensors(random_tensors(config)) {
    save_neox(folder.path(), config, tensors);
  }

  void edit(int index, const std::function<void(Layer&)>& change, int part = 0) const {
    const std::string path = folder / layer_file(index, part);
    Layer layer;
    if (std::filesystem::exists(path)) {
      const auto file = TorchFile::open(path);
      for (const auto& name : file.names()) layer.emplace(name, file.tensor(name).copy());
    }
    change(layer);
    write_torch(path, layer);
  }

  void spill_config(const std::string& yaml) const { folder.spill("metala.yml", yaml); }

  Checkpoint load(const NeoxOptions& options = {}) const {
    return load_neox(folder.path(), options);
  }

  void expect_refusal(const std::string& reason, const NeoxOptions& options = {}) const {
    expect_refusal_of(folder.path(), reason, options);
  }

  TemporaryFolder folder;
  Layer tensors;
};

bool noted(const Checkpoint& checkpoint, const std::string& words) {
  for (const auto& note : checkpoint.notes) {
    if (note.find(words) != std::string::npos) return true;
  }
  return false;
}

void expect_same(const Layer& got, const Layer& want) {
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [name, tensor] : want) EXPECT_TRUE(same_bits(got.at(name), tensor)) << name;
}

Tensor vector_of(std::initializer_list<float> values) {
  const Tensor t = Tensor::zeros({static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), t.data<float>());
  return t;
}

const auto eight = vector_of({1, 2, 3, 4, 5, 6, 7, 8});

TEST(Neox, WhatIsWrittenIsReadBackBitForBit) {
  Config config = tiny();
  expect_same(Saved(config).load().tensors, random_tensors(config));
  config.bias = true;
  config.glu_activation = glu::Activation::gelu;
  const Saved biased(config);
  const Checkpoint loaded = biased.load();
  expect_same(loaded.tensors, biased.tensors);
  EXPECT_EQ(config_json(loaded.config, ""), config_json(config, ""));
  config.tie_word_embeddings = true;
  const Saved tied(config);
  EXPECT_FALSE(std::filesystem::exists(tied.folder / layer_file(6)));
  EXPECT_TRUE(tied.load().config.tie_word_embeddings);
  expect_same(tied.load().tensors, tied.tensors);
}

TEST(Neox, HalfPrecisionIsKeptWhereScalesAreOnes) {
  const TemporaryFolder folder;
  save_neox(folder.path(), tiny(), random_tensors(tiny()), DType::bf16);
  for (const auto& [name, tensor] : load_neox(folder.path()).tensors) {
    EXPECT_EQ(tensor.dtype(), DType::bf16) << name;
  }
}

TEST(Neox, ScalesAreFoldedIntoWhatReadsTheNorm) {
  const Saved saved;
  saved.edit(2, [](Layer& layer) { layer["input_layernorm.scale"] = eight; });
  saved.edit(3, [](Layer& layer) { layer["post_attention_layernorm.scale"] = eight; });
  saved.edit(5, [](Layer& layer) { layer["norm.scale"] = eight; });
  const Checkpoint loaded = saved.load();
  EXPECT_TRUE(noted(loaded, "folded into the weights behind them"));
  const auto check = [&](const std::string& name, int dimension) {
    const Tensor& before = saved.tensors.at(name);
    const Tensor& after = loaded.tensors.at(name);
    const std::int64_t inner = dimension == 0 ? before.count() / before.size(0) : 1;
    for (std::int64_t i = 0; i < before.count(); ++i) {
      const float scale = eight.data<float>()[i / inner % 8];
      EXPECT_EQ(after.data<float>()[i], before.data<float>()[i] * scale) << name << " " << i;
    }
  };
  check("model.layers.0.token_mixer.conv1d.weight", 0);
  check("model.layers.1.channel_mixer.l1.weight", 1);
  check("model.layers.1.channel_mixer.l2.weight", 1);
  check("lm_head.weight", 1);
  EXPECT_TRUE(same_bits(loaded.tensors.at("model.layers.1.channel_mixer.l3.weight"),
                        saved.tensors.at("model.layers.1.channel_mixer.l3.weight")));
}

TEST(Neox, AScaleBeforeATiedHeadMakesTheHeadAMatrixOfItsOwn) {
  Config config = tiny();
  config.tie_word_embeddings = true;
  const Saved saved(config);
  saved.edit(5, [](Layer& layer) { layer["norm.scale"] = eight; });
  const Checkpoint loaded = saved.load();
  EXPECT_FALSE(loaded.config.tie_word_embeddings);
  EXPECT_TRUE(noted(loaded, "the head becomes a matrix of its own"));
  const Tensor& embedding = saved.tensors.at("model.embed_tokens.weight");
  EXPECT_TRUE(same_bits(loaded.tensors.at("model.embed_tokens.weight"), embedding));
  EXPECT_EQ(loaded.tensors.at("lm_head.weight").data<float>()[3], embedding.data<float>()[3] * 4);
}

TEST(Neox, LayerNormsBecomeOurs) {
  const Saved saved;
  saved.spill_config("num_attention_heads: 2\nnorm: layernorm\nno_weight_tying: true");
  saved.edit(2, [](Layer& layer) {
    layer.erase("input_layernorm.scale");
    layer["input_layernorm.weight"] = eight;
    layer["input_layernorm.bias"] = eight;
  });
  const Checkpoint loaded = saved.load();
  EXPECT_EQ(loaded.config.norm, NormType::layernorm);
  EXPECT_TRUE(same_bits(loaded.tensors.at("model.layers.0.token_norm.weight"), eight));
  EXPECT_TRUE(same_bits(loaded.tensors.at("model.layers.0.token_norm.bias"), eight));
  EXPECT_EQ(values(loaded.tensors.at("model.final_norm.weight")), std::vector<double>(8, 1));
  EXPECT_EQ(values(loaded.tensors.at("model.final_norm.bias")), std::vector<double>(8, 0));
}

TEST(Neox, ATiedHeadMayStandInTheLastLayerOnceMore) {
  Config config = tiny();
  config.tie_word_embeddings = true;
  const Saved saved(config);
  saved.edit(6, [&](Layer& layer) {
    layer["word_embeddings.weight"] = saved.tensors.at("model.embed_tokens.weight");
  });
  expect_same(saved.load().tensors, saved.tensors);
}

TEST(Neox, WhetherAMissingHeadIsTiedMustBeSaid) {
  const Saved saved;
  std::filesystem::remove(saved.folder / layer_file(6));
  saved.expect_refusal("final_linear.weight is missing; its configuration has no_weight_tying");
  saved.spill_config("num_attention_heads: 2");
  saved.expect_refusal("its embeddings are tied, or it is incomplete");
  NeoxOptions tied;
  tied.tied = true;
  EXPECT_TRUE(saved.load(tied).config.tie_word_embeddings);
}

TEST(Neox, HeadsComeFromTheYamlOrTheCaller) {
  const Saved saved;
  saved.spill_config("{}");
  saved.expect_refusal("nothing says how many heads");
  NeoxOptions options;
  options.heads = 4;
  const Checkpoint loaded = saved.load(options);
  EXPECT_EQ(loaded.config.heads, 4);
  EXPECT_EQ(loaded.config.attention_scale, 1);
  EXPECT_TRUE(noted(loaded, "silu is assumed"));
  EXPECT_TRUE(noted(loaded, "trained with epsilon 1e-08 (GPT-NeoX's default); here it is 1e-06"));
  std::filesystem::copy(saved.folder / "metala.yml", saved.folder / "other.yaml");
  saved.expect_refusal("name one with --neox-config");
}

TEST(Neox, AConfigurationThatContradictsTheWeightsIsRefused) {
  const Saved saved;
  saved.spill_config("num_layers: 3");
  saved.expect_refusal("has 2 blocks; its configuration says num_layers 3");
  saved.spill_config("num_attention_heads: 2\nhidden_size: 9");
  saved.expect_refusal("its embedding has 8 columns; its configuration says hidden_size 9");
  saved.spill_config("num_attention_heads: 3");
  saved.expect_refusal("decoder_attention_heads 3 must divide");
  saved.spill_config("num_attention_heads: 2\nnorm: scalenorm");
  saved.expect_refusal("norm is \"scalenorm\"; supported");
  saved.spill_config("num_attention_heads: 2\nno-weight-tying: false");
  EXPECT_TRUE(noted(saved.load(), "holds a head of its own"));
}

TEST(Neox, MissingLeftOverAndMisshapenTensorsAreRefusedByName) {
  const auto refused = [](int layer, const std::function<void(Layer&)>& change,
                          const std::string& reason) {
    const Saved saved;
    saved.edit(layer, change);
    saved.expect_refusal(reason);
  };
  refused(
      0, [](Layer& l) { l["x"] = l["word_embeddings.weight"], l.erase("word_embeddings.weight"); },
      "layer 0: word_embeddings.weight is missing");
  refused(
      3, [](Layer& l) { l.erase("mlp.w2.weight"); }, "layer 3: mlp.w2.weight is missing");
  refused(
      3, [](Layer& l) { l["rotary.inv_freq"] = eight; },
      "layer 3: rotary.inv_freq is not part of a MetaLA model");
  refused(
      2,
      [](Layer& l) {
        l["mlp.w1.weight"] = Tensor::zeros({6, 9});
      },
      "model.layers.0.channel_mixer.l1.weight is [6, 9]; wanted [6, 8]");
  refused(
      2,
      [](Layer& l) {
        l["input_layernorm.scale"] = vector_of({1, 2});
      },
      "a scale of [2] does not fit [8, 1, 4]");
  refused(
      2, [](Layer& l) { l["input_layernorm.bias"] = eight, l.erase("input_layernorm.scale"); },
      "input_layernorm has a bias and no weight");
  refused(
      3, [](Layer& l) { l["mlp.w1.bias"] = Tensor::zeros({6}); }, "biases that others lack");
  refused(
      2,
      [](Layer& l) {
        l["mlp.w1.weight"] = Tensor::zeros({6, 8}, DType::i64);
      },
      "weights must be floating-point");
  refused(
      2,
      [](Layer& l) {
        l["attention.conv1d.weight"] = Tensor::zeros({8, 4});
      },
      "model.layers.0.token_mixer.conv1d.weight is [8, 4]");
  refused(
      2, [](Layer& l) { l.erase("attention.q_proj.weight"); }, "layer 2 is missing");
  const Saved saved;
  for (int i : {2, 3}) saved.edit(i, [](Layer& l) { l.erase("attention.q_proj.weight"); });
  saved.expect_refusal("not a MetaLA model");
}

TEST(Neox, PartsOfTensorParallelismMustFitTogether) {
  const auto refused = [](const std::string& name, const Tensor& tensor,
                          const std::string& reason) {
    const TemporaryFolder folder;
    std::filesystem::copy(foreign + "neox_tp2", folder.path());
    const std::string path = folder / layer_file(2, 1);
    const auto file = TorchFile::open(path);
    Layer layer;
    for (const auto& each : file.names()) layer.emplace(each, file.tensor(each).copy());
    layer.erase(name);
    if (tensor.defined()) layer.emplace(name, tensor);
    write_torch(path, layer);
    expect_refusal_of(folder.path(), reason);
  };
  refused("mlp.w1.weight", {}, "mlp.w1.weight: is in 1 of 2 parts");
  refused("extra", eight, "extra: is not in the part before");
  refused("mlp.w1.weight", Tensor::zeros({2, 2}), "in one part and f32 [2, 2] in another");
  refused("attention.aug_balance", eight, "differs between parts that should hold the same");
}

TEST(Neox, AMissingPartIsNoticedByTheShapesOfTheRest) {
  const TemporaryFolder folder;
  for (int layer : {0, 2, 3, 5, 6}) {
    std::filesystem::copy(foreign + "neox_tp2/" + layer_file(layer), folder / layer_file(layer));
  }
  std::filesystem::copy(foreign + "neox_tp2/metala.yml", folder / "metala.yml");
  EXPECT_THROW(load_neox(folder.path()), Error);
}

TEST(Neox, OtherFoldersAreNotTakenForGptNeox) {
  const TemporaryFolder folder;
  for (const char* name : {"layer_00-model_00-optim_states.pt", "layer_x-model_00-model_states.pt",
                           "layer_00_model_states.pt", "mp_rank_00_model_states.pt.tmp"}) {
    folder.spill(name, "");
  }
  EXPECT_FALSE(is_neox_folder(folder.path()));
  EXPECT_FALSE(is_neox_folder(folder / "absent"));
  expect_refusal_of(
      folder.path(),
      "holds neither layer_XX-model_YY-model_states.pt nor mp_rank_YY_model_states.pt");
  write_torch(folder / "mp_rank_00_model_states.pt", {{"w", eight}});
  EXPECT_TRUE(is_neox_folder(folder.path()));
  expect_refusal_of(folder.path(), "has no entry \"module\"");
  for (const char* name :
       {"w", "sequential.x.w", "sequential.0", "sequential.0.", "sequential.0w"}) {
    folder.spill("mp_rank_00_model_states.pt",
                 torch_zip(pickled_dict({{"module", pickled_dict({{name, pickled_tensor({})}})}}),
                           {{"0", std::string(24, '\0')}}));
    expect_refusal_of(folder.path(), "is not named sequential.LAYER.NAME");
  }
}

TEST(Neox, PartsThatAreNoMatricesCannotBeJoined) {
  const TemporaryFolder folder;
  for (int part : {0, 1}) {
    write_torch(folder / layer_file(2, part), {{"mlp.w2.weight", eight}});
  }
  expect_refusal_of(folder.path(), "its parts cannot be joined");
}

TEST(Neox, ModelsThatGptNeoxDoesNotHaveAreNotWritten) {
  const auto refused = [](const std::function<void(Config&)>& change) {
    const TemporaryFolder folder;
    Config config = tiny();
    change(config);
    EXPECT_THROW(save_neox(folder / "out", config, random_tensors(config)), Error);
  };
  refused([](Config& c) { c.norm = NormType::layernorm; });
  refused([](Config& c) { c.query_width = 8; });
  refused([](Config& c) { c.short_conv_width = 0; });
  refused([](Config& c) { c.key = KeyType::projected; });
  refused([](Config& c) { c.decay = DecayType::fixed; });
  refused([](Config& c) { c.decay_temperature = 8; });
  refused([](Config& c) { c.attention_scale = 1; });
  refused([](Config& c) { c.self_augmentation = false; });
  refused([](Config& c) { c.channel_mixer = ChannelMixer::mlp; });
  refused([](Config& c) { c.bidirectional = true; });
  refused([](Config& c) { c.scale_embedding = true; });
  const TemporaryFolder folder;
  EXPECT_THROW(save_neox(folder / "out", tiny(), {}), Error);
  const auto tensors = random_tensors(tiny());
  EXPECT_THROW(save_neox(folder / "out", tiny(), tensors, DType::i64), Error);
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
  folder.spill("file", "");
  EXPECT_THROW(save_neox(folder / "file/out", tiny(), tensors), Error);
}

TEST(NeoxConfig, KeysAreReadWithDashesOrUnderscores) {
  const NeoxConfig c = parse_neox_config(
      "# comment\n{\"num-layers\": 24, 'hidden_size': 1024, \"no-weight-tying\": true,\n"
      "\"optimizer\": {\"type\": \"Adam\"}, \"rms_norm_epsilon\": 1.0e-6, \"norm\": \"rmsnorm\",}",
      "run.yml");
  EXPECT_EQ(c.layers, 24);
  EXPECT_EQ(c.width, 1024);
  EXPECT_EQ(c.untied, true);
  EXPECT_EQ(c.rms_norm_epsilon, 1e-6);
  EXPECT_EQ(c.norm, "rmsnorm");
  EXPECT_FALSE(c.heads.has_value());
}

TEST(NeoxConfig, WhatIsWrongIsNamed) {
  const auto refused = [](const std::string& yaml, const std::string& reason) {
    try {
      parse_neox_config(yaml, "run.yml");
      ADD_FAILURE() << "read, wanted: " << reason;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
    }
  };
  refused("num_layers: many", "run.yml: num_layers is many; wanted a whole number");
  refused("num_layers: [1]", "num_layers is a list or mapping");
  refused("num_layers: 1\nnum-layers: 2", "num_layers is given twice");
  refused("a: 1\nb: [", "run.yml: line");
  refused("- 1", "wanted keys and values");
  refused("", "wanted keys and values");
  refused("a: " + std::string(100'000, '['), "run.yml: line");
}

}  // namespace
}  // namespace metala
