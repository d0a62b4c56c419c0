#include "metala/model/neox_writer.h"

#include <cmath>
#include <cstdint>
#include <filesystem>

#include "metala/base/error.h"
#include "metala/io/file.h"
#include "metala/io/torch_writer.h"
#include "metala/model/checkpoint.h"
#include "metala/model/neox_layers.h"

namespace metala {
namespace {

Tensor ones(std::int64_t count, DType dtype) {
  const Tensor t = Tensor::zeros({count});
  for (std::int64_t i = 0; i < count; ++i) t.data<float>()[i] = 1;
  return t.cast(dtype);
}

// GPT-NeoX's MetaLA is the released model only.
void check_plain(const Config& c) {
  const Config plain;
  const auto wanted = [](bool holds, const char* what) {
    require(holds, "GPT-NeoX's MetaLA has no {}; write this model with --to hf", what);
  };
  wanted(c.norm == NormType::simplermsnorm, "norms of other kinds than RMS");
  wanted(c.query_width == c.width / 2, "query_dim other than half of the width");
  wanted(c.short_conv_width > 0, "models without a convolution");
  wanted(c.key == plain.key && c.decay == plain.decay, "other keys or decays");
  wanted(c.decay_temperature == plain.decay_temperature, "other decay_temperature");
  wanted(c.attention_scale == 1 / std::sqrt(static_cast<double>(c.key_width())),
         "other attention_scale");
  wanted(c.self_augmentation, "models without self-augmentation");
  wanted(c.channel_mixer == plain.channel_mixer, "other channel mixers");
  wanted(!c.bidirectional, "bidirectional models");
  wanted(!c.scale_embedding, "scaled embeddings");
}

std::string yaml(const Config& c) {
  return fmt::format(
      "# Written by metala convert: the shape of the model in this folder.\n"
      "model_parallel_size: 1\n"
      "num_layers: {}\n"
      "hidden_size: {}\n"
      "num_attention_heads: {}\n"
      "intermediate_size: {}\n"
      "norm: rmsnorm\n"
      "rms_norm_epsilon: 1.0e-6\n"
      "no_weight_tying: {}\n"
      "activation: {}\n"
      "init_method_std: {:#}\n",
      c.layers, c.width, c.heads, c.glu_width, !c.tie_word_embeddings,
      glu::name_of(c.glu_activation), c.init_std);
}

}  // namespace

void save_neox(const std::string& folder, const Config& config,
               const std::map<std::string, Tensor>& tensors, DType dtype) {
  check_plain(config);
  require(dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16,
          "GPT-NeoX has no type for {}; write f32, bf16 or f16", name_of(dtype));
  std::map<std::int64_t, std::map<std::string, Tensor>> layers;
  const auto put = [&](std::int64_t layer, const std::string& theirs, const std::string& ours) {
    const auto found = tensors.find(ours);
    require(found != tensors.end(), "checkpoint: tensor {} is missing", ours);
    const Tensor& t = found->second;
    layers[layer].emplace(theirs, t.dtype() == dtype ? t : t.cast(dtype));
  };
  put(0, "word_embeddings.weight", "model.embed_tokens.weight");
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const std::string block = fmt::format("model.layers.{}.", i);
    for (const NeoxName& name : neox_block_names()) {
      if (name.optional && !config.bias) continue;
      put(i + 2, name.theirs, block + name.ours);
    }
    for (const char* norm : {"input_layernorm.scale", "post_attention_layernorm.scale"}) {
      layers[i + 2].emplace(norm, ones(config.width, dtype));
    }
  }
  layers[config.layers + 3].emplace("norm.scale", ones(config.width, dtype));
  if (!config.tie_word_embeddings) {
    put(config.layers + 4, "final_linear.weight", "lm_head.weight");
  }
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  require(!failure, "{}: cannot create: {}", folder, failure.message());
  for (const auto& [index, layer] : layers) {
    write_torch(fmt::format("{}/layer_{:02}-model_00-model_states.pt", folder, index), layer);
  }
  write_file_atomically(folder + "/metala.yml", yaml(config));
}

}  // namespace metala
