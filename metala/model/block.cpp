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

// The released norm's backward pass reads its result and not x, so that x is spent once added to.
functions::Onto Block::onto(const Variable& x, const Variable& weight, const Variable& bias) const {
  const bool spent = config_->norm == NormType::simplermsnorm;
  return {x, weight, bias, spent ? functions::Residual::spent : functions::Residual::kept};
}

// q, u, v, z, and k where it is projected, of the filtered rows y.
functions::AttentionInputs Block::project(Tape& tape, const Variable& y, Offsets offsets,
                                          const CarriedLayer& state) const {
  functions::AttentionInputs in;
  std::vector<functions::Projection> projections;
  std::vector<Variable*> results;
  const auto add = [&](Variable& to, const Variable& weight, const Variable& bias = {}) {
    if (!weight.defined()) return;
    projections.push_back({weight, bias});
    results.push_back(&to);
  };
  add(in.q, w_.q_proj);
  add(in.u, w_.k_gate);
  add(in.k, w_.k_proj);
  add(in.v, w_.v_proj);
  add(in.z, w_.g_proj, w_.g_bias);
  const auto take = [&](const std::vector<Variable>& products) {
    for (std::size_t i = 0; i < products.size(); ++i) *results[i] = products[i];
  };
  if (!w_.conv.defined()) {
    take(functions::linear(tape, y, projections));
  } else if (state.context == nullptr) {
    take(functions::short_conv_linear(tape, y, w_.conv, offsets, state.conv, projections));
  } else {
    const Variable filtered =
        context_parallel::short_conv(tape, *state.context, y, w_.conv, offsets);
    take(functions::linear(tape, filtered, projections));
  }
  in.aug = w_.aug_balance;
  in.fixed_decay = w_.fixed_decay;
  return in;
}

Variable Block::mix_tokens(Tape& tape, const Variable& x, Offsets offsets,
                           const CarriedLayer& state, const TrainingOptions* training) const {
  const Config& c = *config_;
  const auto in = project(tape, token_norm_(tape, x), offsets, state);
  const auto options = attention_options(c);
  const bool dropped = training != nullptr && c.hidden_dropout > 0;
  const functions::Onto sum = onto(x, w_.out_proj, {});
  if (!dropped && state.context == nullptr) {
    return functions::add_attention_linear(tape, sum, options, in, offsets, state.recurrent);
  }
  const Variable o =
      state.context == nullptr
          ? functions::metala_attention(tape, options, in, offsets, state.recurrent)
          : context_parallel::metala_attention(tape, *state.context, options, in, offsets);
  if (!dropped) return functions::add_linear(tape, x, o, w_.out_proj, {}, sum.fate);
  const auto mask =
      dropout_mask(c.hidden_dropout, *training, static_cast<std::uint64_t>(layer_) + 1);
  const Variable mixed = functions::linear(tape, o, w_.out_proj);
  return functions::add(tape, x, functions::dropout(tape, mask, mixed, {offsets, state.origins}));
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
  const auto ab = functions::linear(tape, y, {{w_.l1, w_.l1_bias}, {w_.l2, w_.l2_bias}});
  return functions::add_glu_linear(tape, onto(x, w_.l3, w_.l3_bias), config_->glu_activation, ab[0],
                                   ab[1]);
}

}  // namespace metala
