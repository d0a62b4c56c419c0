#include "metala/model/neox.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include "metala/base/error.h"
#include "metala/io/file.h"
#include "metala/model/neox_config.h"

namespace metala {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t largest_config = std::size_t{1} << 20;
constexpr double our_rms_norm_eps = 1e-6, our_layer_norm_eps = 1e-5;

// What one norm of the files has; a LayerNorm has both, an RMS norm a scale or nothing.
struct NeoxNorm {
  Tensor scale, bias;
};

std::string config_path(const std::string& folder) {
  std::string found;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder, none)) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".yml" && extension != ".yaml") continue;
    require(found.empty(), "{}: holds both {} and {}; name one with --neox-config", folder,
            fs::path(found).filename().string(), entry.path().filename().string());
    found = entry.path().string();
  }
  return found;
}

NeoxConfig read_config(const std::string& folder, const NeoxOptions& options) {
  const std::string path = options.config.empty() ? config_path(folder) : options.config;
  NeoxConfig config;
  if (!path.empty()) config = parse_neox_config(read_file(path, largest_config), path);
  if (options.heads) config.heads = options.heads;
  if (options.tied) config.untied = !*options.tied;
  return config;
}

// t times a vector along one dimension, in f32.
Tensor scaled(const Tensor& t, const Tensor& scale, int dimension, const std::string& what) {
  const Tensor factors = scale.cast(DType::f32);
  require(factors.rank() == 1 && t.rank() > dimension && factors.size(0) == t.size(dimension),
          "{}: a scale of {} does not fit {}", what, scale.shape().text(), t.shape().text());
  const Tensor result = t.cast(DType::f32);
  float* values = result.data<float>();
  std::int64_t inner = 1;
  for (int i = dimension + 1; i < t.rank(); ++i) inner *= t.size(i);
  for (std::int64_t i = 0; i < result.count(); ++i) {
    values[i] *= factors.data<float>()[i / inner % factors.size(0)];
  }
  return result;
}

bool all_ones(const Tensor& scale) {
  const Tensor factors = scale.cast(DType::f32);
  const float* begin = factors.data<float>();
  return std::all_of(begin, begin + factors.count(), [](float factor) { return factor == 1; });
}

class NeoxReader {
 public:
  NeoxReader(const std::string& folder, const NeoxOptions& options)
      : folder_(folder), config_(read_config(folder, options)), files_(read_neox_layers(folder)) {}

  Checkpoint read() {
    const std::int64_t layers = count_layers();
    take(0, "word_embeddings.weight", "model.embed_tokens.weight");
    for (std::int64_t i = 0; i < layers; ++i) read_block(i);
    read_head(layers);
    read_final_norm(layers);
    settle_norms(layers);
    for (const auto& [index, layer] : files_.layers) {
      for (const auto& [name, tensor] : layer) {
        fail("{}: layer {}: {} is not part of a MetaLA model", folder_, index, name);
      }
    }
    describe(layers);
    check_shapes();
    return std::move(result_);
  }

 private:
  std::string where(std::int64_t index, std::string_view name) const {
    return fmt::format("{}: layer {}: {}", folder_, index, name);
  }

  // Blocks follow each other from layer 2 on.
  std::int64_t count_layers() const {
    std::int64_t layers = 0;
    for (const auto& [index, layer] : files_.layers) {
      if (!layer.contains("attention.q_proj.weight")) continue;
      require(index == layers + 2, "{}: layer {} is missing", folder_, layers + 2);
      ++layers;
    }
    require(layers > 0, "{}: no layer holds attention.q_proj.weight; not a MetaLA model", folder_);
    require(!config_.layers || *config_.layers == layers,
            "{}: has {} blocks; its configuration says num_layers {}", folder_, layers,
            config_.layers.value_or(0));
    return layers;
  }

  // Removes a tensor from the files, so that what is left over can be told; undefined if absent.
  Tensor taken(std::int64_t index, const std::string& name) {
    const auto layer = files_.layers.find(index);
    if (layer == files_.layers.end()) return {};
    const auto found = layer->second.find(name);
    if (found == layer->second.end()) return {};
    Tensor tensor = found->second;
    layer->second.erase(found);
    return tensor;
  }

  void take(std::int64_t index, const std::string& theirs, const std::string& ours) {
    const Tensor tensor = taken(index, theirs);
    require(tensor.defined(), "{} is missing", where(index, theirs));
    result_.tensors.emplace(ours, tensor);
  }

  NeoxNorm take_norm(std::int64_t index, const std::string& name) {
    NeoxNorm norm;
    norm.scale = taken(index, name + ".scale");
    if (!norm.scale.defined()) norm.scale = taken(index, name + ".weight");
    norm.bias = taken(index, name + ".bias");
    require(!norm.bias.defined() || norm.scale.defined(), "{} has a bias and no weight",
            where(index, name));
    return norm;
  }

  void read_block(std::int64_t i) {
    const std::string block = fmt::format("model.layers.{}.", i);
    for (const NeoxName& name : neox_block_names()) {
      const Tensor tensor = taken(i + 2, name.theirs);
      require(tensor.defined() || name.optional, "{} is missing", where(i + 2, name.theirs));
      if (tensor.defined()) result_.tensors.emplace(block + name.ours, tensor);
    }
    norms_.emplace_back(block + "token_norm", take_norm(i + 2, "input_layernorm"));
    norms_.emplace_back(block + "channel_norm", take_norm(i + 2, "post_attention_layernorm"));
  }

  void read_final_norm(std::int64_t layers) {
    norms_.emplace_back("model.final_norm", take_norm(layers + 3, "norm"));
  }

  // With tied embeddings the last layer is absent, or the embedding once more.
  void read_head(std::int64_t layers) {
    taken(layers + 4, "word_embeddings.weight");
    const Tensor head = taken(layers + 4, "final_linear.weight");
    tied_ = !head.defined();
    if (head.defined()) result_.tensors.emplace("lm_head.weight", head);
    require(
        !tied_ || config_.untied.has_value(),
        "{}: has no final_linear.weight: its embeddings are tied, or it is incomplete; say which "
        "by no_weight_tying in a YAML beside it, or by --tied",
        folder_);
    require(!tied_ || !*config_.untied,
            "{}: layer {}: final_linear.weight is missing; its configuration has no_weight_tying",
            folder_, layers + 4);
    if (!tied_ && config_.untied && !*config_.untied) {
      note("layer {} holds a head of its own although the configuration ties it; it is kept",
           layers + 4);
    }
  }

  template <class... Args>
  void note(fmt::format_string<Args...> format, Args&&... args) {
    result_.notes.push_back(folder_ + ": " + fmt::format(format, std::forward<Args>(args)...));
  }

  void fold(const std::string& into, const Tensor& scale, int dimension) {
    Tensor& tensor = result_.tensors.at(into);
    tensor = scaled(tensor, scale, dimension, folder_ + ": " + into);
  }

  void settle_norms(std::int64_t layers) {
    bool biased = false;
    for (const auto& [name, norm] : norms_) biased = biased || norm.bias.defined();
    const std::string word = config_.norm.value_or("");
    layer_norm_ = biased || word == "layernorm" || word == "non_parametric_layernorm";
    require(layer_norm_ || word.empty() || word.find("rmsnorm") != std::string::npos,
            "{}: norm is \"{}\"; supported: rmsnorm, layernorm, non_parametric_layernorm", folder_,
            word);
    if (layer_norm_) {
      keep_layer_norms();
    } else {
      fold_scales(layers);
    }
    compare_epsilon();
  }

  void compare_epsilon() {
    const auto& given = layer_norm_ ? config_.layernorm_epsilon : config_.rms_norm_epsilon;
    const double theirs = given.value_or(layer_norm_ ? 1e-5 : 1e-8);
    const double ours = layer_norm_ ? our_layer_norm_eps : our_rms_norm_eps;
    if (theirs == ours) return;
    note("its norms were trained with epsilon {}{}; here it is {}", theirs,
         given ? "" : " (GPT-NeoX's default)", ours);
  }

  void keep_layer_norms() {
    for (const auto& [name, norm] : norms_) {
      const Shape shape = {result_.tensors.at("model.embed_tokens.weight").size(1)};
      Tensor ones = Tensor::zeros(shape);
      for (std::int64_t i = 0; i < shape[0]; ++i) ones.data<float>()[i] = 1;
      result_.tensors.emplace(name + ".weight", norm.scale.defined() ? norm.scale : ones);
      result_.tensors.emplace(name + ".bias",
                              norm.bias.defined() ? norm.bias : Tensor::zeros(shape));
    }
  }

  void fold_scales(std::int64_t layers) {
    std::size_t folded = 0;
    // Scales of ones change nothing, and are left out so that no weight becomes f32 for them.
    const auto scale_of = [&](std::size_t norm) -> Tensor {
      const Tensor& scale = norms_[norm].second.scale;
      if (!scale.defined() || all_ones(scale)) return {};
      ++folded;
      return scale;
    };
    for (std::int64_t i = 0; i < layers; ++i) {
      const std::string block = fmt::format("model.layers.{}.", i);
      const auto first = static_cast<std::size_t>(2 * i);
      if (const Tensor scale = scale_of(first); scale.defined()) {
        fold(block + "token_mixer.conv1d.weight", scale, 0);
      }
      if (const Tensor scale = scale_of(first + 1); scale.defined()) {
        fold(block + "channel_mixer.l1.weight", scale, 1);
        fold(block + "channel_mixer.l2.weight", scale, 1);
      }
    }
    if (const Tensor scale = scale_of(norms_.size() - 1); scale.defined()) {
      if (tied_) {
        result_.tensors["lm_head.weight"] = result_.tensors.at("model.embed_tokens.weight");
        tied_ = false;
        note("its final norm has a scale, so the head becomes a matrix of its own");
      }
      fold("lm_head.weight", scale, 1);
    }
    if (folded > 0) note("the scales of {} norms are folded into the weights behind them", folded);
  }

  std::int64_t size_of_tensor(const std::string& name, int dimension) const {
    const Tensor& tensor = result_.tensors.at(name);
    require(tensor.rank() > dimension, "{}: {} is {}", folder_, name, tensor.shape().text());
    return tensor.size(dimension);
  }

  void describe(std::int64_t layers) {
    Config& c = result_.config;
    const std::string block = "model.layers.0.";
    c.vocab_size = size_of_tensor("model.embed_tokens.weight", 0);
    c.width = size_of_tensor("model.embed_tokens.weight", 1);
    c.layers = layers;
    require(config_.heads.has_value(),
            "{}: nothing says how many heads the model has; put its YAML (num_attention_heads) "
            "beside it, or give --heads",
            folder_);
    c.heads = *config_.heads;
    c.glu_width = size_of_tensor(block + "channel_mixer.l1.weight", 0);
    c.query_width = size_of_tensor(block + "token_mixer.q_proj.weight", 0);
    c.short_conv_width = size_of_tensor(block + "token_mixer.conv1d.weight", 2);
    c.bias = result_.tensors.contains(block + "channel_mixer.l1.bias");
    c.norm = layer_norm_ ? NormType::layernorm : NormType::simplermsnorm;
    c.tie_word_embeddings = tied_;
    c.init_std = config_.init_method_std.value_or(c.init_std);
    if (config_.activation) {
      c.glu_activation = glu::activation_named(*config_.activation);
    } else {
      note("nothing says what activates the gated unit; silu is assumed");
    }
    require(!config_.width || *config_.width == c.width,
            "{}: its embedding has {} columns; its configuration says hidden_size {}", folder_,
            c.width, config_.width.value_or(0));
    check_config(c, folder_);
    c.attention_scale = 1 / std::sqrt(static_cast<double>(c.key_width()));
  }

  void check_shapes() {
    std::map<std::string, Tensor> checked;
    for (const auto& spec : expected_tensors(result_.config)) {
      const auto found = result_.tensors.find(spec.name);
      require(found != result_.tensors.end(), "{}: {} is missing", folder_, spec.name);
      const Tensor& tensor = found->second;
      require(tensor.shape() == spec.shape, "{}: {} is {}; wanted {}", folder_, spec.name,
              tensor.shape().text(), spec.shape.text());
      const DType type = tensor.dtype();
      require(type == DType::f32 || type == DType::f64 || type == DType::bf16 || type == DType::f16,
              "{}: {} holds {}; weights must be floating-point", folder_, spec.name, name_of(type));
      checked.emplace(spec.name, type == DType::f64 ? tensor.cast(DType::f32) : tensor);
    }
    require(checked.size() == result_.tensors.size(),
            "{}: some blocks have biases that others lack", folder_);
    result_.tensors = std::move(checked);
  }

  std::string folder_;
  NeoxConfig config_;
  NeoxLayers files_;
  Checkpoint result_;
  std::vector<std::pair<std::string, NeoxNorm>> norms_;  // our names; two a block, then the last
  bool tied_ = false;
  bool layer_norm_ = false;
};

}  // namespace

Checkpoint load_neox(const std::string& folder, const NeoxOptions& options) {
  return NeoxReader(folder, options).read();
}

}  // namespace metala
