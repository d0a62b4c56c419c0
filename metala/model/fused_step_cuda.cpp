#include <algorithm>
#include <array>
#include <vector>

#include "metala/model/fused_step.h"
#include "metala/ops/decode/decode_cuda.h"

namespace metala {
namespace {

namespace kernels = decode::cuda;

kernels::Norm norm_of(const Norm& n) {
  return {value_of(n.weight()), value_of(n.bias()), n.eps()};
}

// The matrices that read the convolved row, in the order of their products in a row.
std::array<Tensor, 5> projections(const BlockWeights& w) {
  return {value_of(w.q_proj), value_of(w.k_gate), value_of(w.k_proj), value_of(w.v_proj),
          value_of(w.g_proj)};
}

bool fits(const Variable& matrix, std::int64_t rows_in) {
  if (!matrix.defined()) return true;
  const Tensor& m = matrix.value();
  return m.dtype() == DType::bf16 && m.contiguous() && m.size(1) % 32 == 0 &&
         m.size(0) % rows_in == 0 && reinterpret_cast<std::uintptr_t>(m.raw()) % 16 == 0;
}

// Rows as a product reads them: made on the way for few sequences, beforehand for many.
kernels::Rows read(const Norm& norm, const kernels::Conv& conv, const Tensor& x, const Tensor& y,
                   const Tensor& normed) {
  if (x.size(0) <= kernels::most_fused_rows && x.size(1) <= kernels::widest_fused) {
    return {{}, x, norm_of(norm), conv, normed};
  }
  kernels::normalise(norm_of(norm), conv, x, y, normed);
  return {y, {}, {}, {}, {}};
}

}  // namespace

bool FusedStep::takes(const LanguageModel& model) {
  const Config& c = model.config();
  const bool known = model.device().is_cuda() && !c.bidirectional && c.width <= kernels::widest &&
                     c.value_width() % 4 == 0 && c.glu_activation != glu::Activation::exp;
  if (!known || !fits(model.embedding(), 1) || !fits(model.head(), 1)) return false;
  return std::all_of(model.blocks().begin(), model.blocks().end(), [](const Block& block) {
    const BlockWeights& w = block.weights();
    return fits(w.q_proj, 8) && fits(w.k_gate, 8) && fits(w.k_proj, 8) && fits(w.v_proj, 8) &&
           fits(w.g_proj, 8) && fits(w.out_proj, 8) && fits(w.l1, 8) && fits(w.l2, 8) &&
           fits(w.l3, 8);
  });
}

FusedStep::FusedStep(const LanguageModel& model, std::int64_t batch) : model_(model) {
  const Config& c = model.config();
  const auto rows = [&](std::int64_t width, DType type) {
    return Tensor::uninitialized({batch, width}, type, model.device());
  };
  std::int64_t projected = 0;
  for (const Tensor& matrix : projections(model.blocks().front().weights())) {
    if (matrix.defined()) projected += matrix.size(0);
  }
  x_ = rows(c.width, DType::f32);
  y_ = rows(c.width, DType::bf16);
  if (c.short_conv_width > 0) normed_ = rows(c.width, DType::f32);
  mixed_ = rows(projected, DType::f32);
  o_ = rows(c.width, DType::bf16);
  h_ = rows(c.glu_width, DType::bf16);
  products_ = rows(2 * c.glu_width, DType::f32);
  if (batch > 1) logits_ = rows(c.vocab_size, DType::f32);
}

void FusedStep::advance(const std::int32_t* ids, bool some, State& state) const {
  kernels::embed(ids, model_.embedding().value(), model_.embedding_scale(), x_);
  for (std::size_t layer = 0; layer < model_.blocks().size(); ++layer) {
    mix_tokens(model_.blocks()[layer], some ? ids : nullptr, state.layers()[layer]);
    mix_channels(model_.blocks()[layer]);
  }
  kernels::project(read(model_.final_norm(), {}, x_, y_, {}), std::array{model_.head().value()},
                   some ? logits_ : state.logits());
  if (some) kernels::copy_rows(ids, logits_, state.logits());
}

void FusedStep::mix_tokens(const Block& block, const std::int32_t* ids_of_some,
                           const LayerState& state) const {
  const BlockWeights& w = block.weights();
  const kernels::Conv conv = {value_of(w.conv), state.conv};
  std::vector<Tensor> matrices;
  std::array<Tensor, 5> quvz;  // q, u, k, v, z
  std::int64_t at = 0;
  const auto all = projections(w);
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (!all[i].defined()) continue;
    matrices.push_back(all[i]);
    quvz[i] = mixed_.slice(1, at, at + all[i].size(0));
    at += all[i].size(0);
  }
  kernels::project(read(block.token_norm(), conv, x_, y_, normed_), matrices, mixed_);
  const auto& [q, u, k, v, z] = quvz;
  const metala_attention::Inputs in = {
      q, u, k, v, z, value_of(w.aug_balance), value_of(w.fixed_decay), state.recurrent};
  kernels::attention_step(attention_options(model_.config()), in, value_of(w.g_bias), conv, normed_,
                          ids_of_some, o_);
  kernels::project_onto(o_, w.out_proj.value(), {}, x_);
}

void FusedStep::mix_channels(const Block& block) const {
  const Config& c = model_.config();
  const BlockWeights& w = block.weights();
  if (c.channel_mixer == ChannelMixer::identity) {
    return kernels::add_normalised(norm_of(block.channel_norm()), x_);
  }
  const bool mlp = c.channel_mixer == ChannelMixer::mlp;
  const kernels::Gated gated = {mlp ? glu::Activation::gelu : c.glu_activation, w.l1.value(),
                                value_of(w.l1_bias), value_of(w.l2), value_of(w.l2_bias)};
  kernels::project_gated(read(block.channel_norm(), {}, x_, y_, {}), gated,
                         mlp ? products_.slice(1, 0, c.glu_width) : products_, h_);
  kernels::project_onto(h_, w.l3.value(), value_of(w.l3_bias), x_);
}

}  // namespace metala
