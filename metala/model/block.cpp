#include "metala/model/block.h"

#include <fmt/format.h>

#include <utility>

#include "metala/autograd/context_parallel.h"

namespace metala {
namespace {

constexpr double rms_norm_eps = 1e-6;
constexpr double layer_norm_eps = 1e-5;

// The taps come as [d, 1, W], the shape of a depthwise convolution's weight elsewhere.
Variable taps(const Variable& weight) {
  const Shape matrix = {weight.value().size(0), weight.value().size(2)};
  const Tensor value = weight.value().reshape(matrix);
  if (!weight.needs_gradient()) return Variable::constant(value);
  return Variable::leaf(value, weight.gradient().reshape(matrix));
}

}  // namespace

dropout::Mask dropout_mask(double probability, const TrainingOptions& training,
                           std::uint64_t place) {
  return {probability, training.dropout_seed, (training.step << 16) | place};
}

Norm::Norm(const Config& config, const Parameters& parameters, const std::string& name)
    : type_(config.norm) {
  if (type_ == NormType::simplermsnorm) return;
  weight_ = parameters.variable(name + ".weight");
  bias_ = parameters.variable(name + ".bias");
}

Variable Norm::operator()(Tape& tape, const Variable& x) const {
  if (type_ == NormType::simplermsnorm) return functions::rms_norm(tape, x, rms_norm_eps);
  return functions::layer_norm(tape, x, weight_, bias_, layer_norm_eps);
}

Block::Block(std::shared_ptr<const Config> config, const Parameters& parameters, std::int64_t layer)
    : config_(std::move(config)), layer_(layer) {
  const Config& c = *config_;
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const auto mixer = [&](const char* name) {
    return parameters.variable(prefix + "token_mixer." + name);
  };
  const auto channel = [&](const char* name) {
    return parameters.variable(prefix + "channel_mixer." + name);
  };
  token_norm_ = Norm(c, parameters, prefix + "token_norm");
  channel_norm_ = Norm(c, parameters, prefix + "channel_norm");
  if (c.short_conv_width > 0) conv_ = taps(mixer("conv1d.weight"));
  q_proj_ = mixer("q_proj.weight");
  if (c.decay == DecayType::dynamic) k_gate_ = mixer("k_gate.weight");
  if (c.decay == DecayType::fixed) fixed_decay_ = mixer("decay");
  if (c.key == KeyType::projected) k_proj_ = mixer("k_proj.weight");
  v_proj_ = mixer("v_proj.weight");
  g_proj_ = mixer("g_proj.weight");
  g_bias_ = mixer("g_proj.bias");
  out_proj_ = mixer("out_proj.weight");
  if (c.self_augmentation) aug_balance_ = mixer("aug_balance");
  if (c.channel_mixer == ChannelMixer::identity) return;
  l1_ = channel("l1.weight");
  l3_ = channel("l3.weight");
  if (c.bias) l1_bias_ = channel("l1.bias");
  if (c.bias) l3_bias_ = channel("l3.bias");
  if (c.channel_mixer != ChannelMixer::glu) return;
  l2_ = channel("l2.weight");
  if (c.bias) l2_bias_ = channel("l2.bias");
}

Variable Block::operator()(Tape& tape, const Variable& x, Offsets offsets,
                           const CarriedLayer& state, const TrainingOptions* training) const {
  return mix_channels(tape, mix_tokens(tape, x, offsets, state, training));
}

Variable Block::mix_tokens(Tape& tape, const Variable& x, Offsets offsets,
                           const CarriedLayer& state, const TrainingOptions* training) const {
  const Config& c = *config_;
  Variable y = token_norm_(tape, x);
  if (conv_.defined()) {
    y = state.context == nullptr
            ? functions::short_conv(tape, y, conv_, offsets, state.conv)
            : context_parallel::short_conv(tape, *state.context, y, conv_, offsets);
  }

  functions::AttentionInputs in;
  in.q = functions::linear(tape, y, q_proj_);
  if (k_gate_.defined()) in.u = functions::linear(tape, y, k_gate_);
  if (k_proj_.defined()) in.k = functions::linear(tape, y, k_proj_);
  in.v = functions::linear(tape, y, v_proj_);
  in.z = functions::linear(tape, y, g_proj_, g_bias_);
  in.aug = aug_balance_;
  in.fixed_decay = fixed_decay_;
  const metala_attention::Options options = {c.heads, c.decay_temperature, c.attention_scale,
                                             c.bidirectional};
  const Variable o =
      state.context == nullptr
          ? functions::metala_attention(tape, options, in, offsets, state.recurrent)
          : context_parallel::metala_attention(tape, *state.context, options, in, offsets);

  if (training == nullptr || c.hidden_dropout == 0) {
    return functions::add_linear(tape, x, o, out_proj_);
  }
  const auto mask =
      dropout_mask(c.hidden_dropout, *training, static_cast<std::uint64_t>(layer_) + 1);
  return functions::add(tape, x,
                        functions::dropout(tape, mask, functions::linear(tape, o, out_proj_)));
}

Variable Block::mix_channels(Tape& tape, const Variable& x) const {
  const Variable y = channel_norm_(tape, x);
  switch (config_->channel_mixer) {
    case ChannelMixer::identity:
      return functions::add(tape, x, y);
    case ChannelMixer::mlp: {
      const Variable a = functions::linear(tape, y, l1_, l1_bias_);
      const Variable h = functions::glu(tape, glu::Activation::gelu, a, {});
      return functions::add_linear(tape, x, h, l3_, l3_bias_);
    }
    case ChannelMixer::glu:
      break;
  }
  const Variable a = functions::linear(tape, y, l1_, l1_bias_);
  const Variable b = functions::linear(tape, y, l2_, l2_bias_);
  const Variable h = functions::glu(tape, config_->glu_activation, a, b);
  return functions::add_linear(tape, x, h, l3_, l3_bias_);
}

}  // namespace metala
