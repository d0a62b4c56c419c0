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
  if (type_ == NormType::simplermsnorm) return functions::rms_norm(tape, x, eps());
  return functions::layer_norm(tape, x, weight_, bias_, eps());
}

double Norm::eps() const {
  return type_ == NormType::simplermsnorm ? rms_norm_eps : layer_norm_eps;
}

metala_attention::Options attention_options(const Config& c) {
  return {c.heads, c.decay_temperature, c.attention_scale, c.bidirectional};
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
  if (c.short_conv_width > 0) w_.conv = taps(mixer("conv1d.weight"));
  w_.q_proj = mixer("q_proj.weight");
  if (c.decay == DecayType::dynamic) w_.k_gate = mixer("k_gate.weight");
  if (c.decay == DecayType::fixed) w_.fixed_decay = mixer("decay");
  if (c.key == KeyType::projected) w_.k_proj = mixer("k_proj.weight");
  w_.v_proj = mixer("v_proj.weight");
  w_.g_proj = mixer("g_proj.weight");
  w_.g_bias = mixer("g_proj.bias");
  w_.out_proj = mixer("out_proj.weight");
  if (c.self_augmentation) w_.aug_balance = mixer("aug_balance");
  if (c.channel_mixer == ChannelMixer::identity) return;
  w_.l1 = channel("l1.weight");
  w_.l3 = channel("l3.weight");
  if (c.bias) w_.l1_bias = channel("l1.bias");
  if (c.bias) w_.l3_bias = channel("l3.bias");
  if (c.channel_mixer != ChannelMixer::glu) return;
  w_.l2 = channel("l2.weight");
  if (c.bias) w_.l2_bias = channel("l2.bias");
}

Variable Block::operator()(Tape& tape, const Variable& x, Offsets offsets,
                           const CarriedLayer& state, const TrainingOptions* training) const {
  return mix_channels(tape, mix_tokens(tape, x, offsets, state, training));
}

Variable Block::mix_tokens(Tape& tape, const Variable& x, Offsets offsets,
                           const CarriedLayer& state, const TrainingOptions* training) const {
  const Config& c = *config_;
  Variable y = token_norm_(tape, x);
  if (w_.conv.defined()) {
    y = state.context == nullptr
            ? functions::short_conv(tape, y, w_.conv, offsets, state.conv)
            : context_parallel::short_conv(tape, *state.context, y, w_.conv, offsets);
  }

  functions::AttentionInputs in;
  in.q = functions::linear(tape, y, w_.q_proj);
  if (w_.k_gate.defined()) in.u = functions::linear(tape, y, w_.k_gate);
  if (w_.k_proj.defined()) in.k = functions::linear(tape, y, w_.k_proj);
  in.v = functions::linear(tape, y, w_.v_proj);
  in.z = functions::linear(tape, y, w_.g_proj, w_.g_bias);
  in.aug = w_.aug_balance;
  in.fixed_decay = w_.fixed_decay;
  const auto options = attention_options(c);
  const Variable o =
      state.context == nullptr
          ? functions::metala_attention(tape, options, in, offsets, state.recurrent)
          : context_parallel::metala_attention(tape, *state.context, options, in, offsets);

  if (training == nullptr || c.hidden_dropout == 0) {
    return functions::add_linear(tape, x, o, w_.out_proj);
  }
  const auto mask =
      dropout_mask(c.hidden_dropout, *training, static_cast<std::uint64_t>(layer_) + 1);
  return functions::add(tape, x,
                        functions::dropout(tape, mask, functions::linear(tape, o, w_.out_proj)));
}

Variable Block::mix_channels(Tape& tape, const Variable& x) const {
  const Variable y = channel_norm_(tape, x);
  switch (config_->channel_mixer) {
    case ChannelMixer::identity:
      return functions::add(tape, x, y);
    case ChannelMixer::mlp: {
      const Variable a = functions::linear(tape, y, w_.l1, w_.l1_bias);
      const Variable h = functions::glu(tape, glu::Activation::gelu, a, {});
      return functions::add_linear(tape, x, h, w_.l3, w_.l3_bias);
    }
    case ChannelMixer::glu:
      break;
  }
  const Variable a = functions::linear(tape, y, w_.l1, w_.l1_bias);
  const Variable b = functions::linear(tape, y, w_.l2, w_.l2_bias);
  const Variable h = functions::glu(tape, config_->glu_activation, a, b);
  return functions::add_linear(tape, x, h, w_.l3, w_.l3_bias);
}

}  // namespace metala
