#include "metala/model/language_model.h"

#include <algorithm>
#include <cmath>

#include "metala/device/mirror.h"
#include "metala/model/checkpoint.h"
#include "metala/ops/embedding/embedding.h"
#include "metala/ops/linear/linear.h"

namespace metala {
namespace {

// Tokens read in one pass of `advance`: enough for the matrix products to run at full speed, few
// enough for a pass's activations to stay small beside the weights. On a GPU a pass of 512 tokens
// costs no more than its launches.
std::int64_t window_tokens(Device device) {
  return device.is_cuda() ? 4096 : 512;
}

// Kernels read vectors and the convolution's taps as f32; only matrices come in 16 bits.
Parameters with_small_tensors_widened(const Config& config, const Parameters& parameters) {
  std::map<std::string, Tensor> widened;
  for (const auto& spec : expected_tensors(config)) {
    const Variable p = parameters.variable(spec.name);
    require(p.value().shape() == spec.shape, "model: tensor {} is {}; config.json says {}",
            spec.name, p.value().shape().text(), spec.shape.text());
    const bool half = p.value().dtype() == DType::bf16 || p.value().dtype() == DType::f16;
    if (half && spec.shape.rank() != 2) widened.emplace(spec.name, p.value().cast(DType::f32));
  }
  if (widened.empty()) return parameters;
  std::map<std::string, Tensor> all = parameters.tensors();
  for (auto& [name, tensor] : widened) all.insert_or_assign(name, tensor);
  return Parameters(std::move(all));
}

}  // namespace

LanguageModel::LanguageModel(const Config& config, const Parameters& given)
    : config_(std::make_shared<const Config>(config)) {
  const Parameters parameters = with_small_tensors_widened(config, given);
  embedding_ = parameters.variable("model.embed_tokens.weight");
  const Tensor& table = embedding_.value();
  device_ = table.device();
  dtype_ = device_.is_cuda() ? table.dtype() : accumulation_type(table.dtype());
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    blocks_.emplace_back(config_, parameters, layer);
  }
  final_norm_ = Norm(config, parameters, "model.final_norm");
  head_ = config.tie_word_embeddings ? embedding_ : parameters.variable("lm_head.weight");
}

double LanguageModel::embedding_scale() const {
  return config_->scale_embedding ? std::sqrt(static_cast<double>(config_->width)) : 1.0;
}

Variable LanguageModel::hidden(Tape& tape, const Batch& given, const CarriedState& state,
                               const TrainingOptions* training) const {
  const Config& c = *config_;
  Batch batch = {mirrored(tape.arena(), given.ids), mirrored(tape.arena(), given.offsets),
                 given.context};
  const bool dropped = training != nullptr && (c.embedding_dropout > 0 || c.hidden_dropout > 0);
  if (dropped && !given.origins.empty()) batch.origins = mirrored(tape.arena(), given.origins);
  check_offsets("model", batch.offsets, static_cast<std::int64_t>(batch.ids.size()));
  require(state.empty() || !c.bidirectional, "model: a bidirectional model has no state");
  require(state.empty() || batch.context == nullptr,
          "model: sequences in parts on several ranks start from a state of zero");
  const bool freeze = training != nullptr && training->freeze_padding;
  Variable x = functions::embedding(tape, batch.ids, embedding_, embedding_scale(),
                                    freeze ? c.pad_token_id : -1);
  if (training != nullptr && c.embedding_dropout > 0) {
    x = functions::dropout(tape, dropout_mask(c.embedding_dropout, *training, 0), x,
                           {batch.offsets, batch.origins});
  }
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    if (tape.recording() && training != nullptr && training->layer_done) {
      tape.record([training, layer] { training->layer_done(static_cast<std::int64_t>(layer)); });
    }
    CarriedLayer carried = state.empty() ? CarriedLayer() : state[layer];
    carried.context = batch.context;
    carried.origins = batch.origins;
    // By value: a recomputed block runs again in the backward pass.
    const auto block = [&b = blocks_[layer], offsets = batch.offsets, carried, training](
                           Tape& on, const Variable& in) {
      return b(on, in, offsets, carried, training);
    };
    const bool recompute = training != nullptr && training->recompute_blocks;
    x = recompute ? functions::recomputed(tape, x, block) : functions::scoped(tape, x, block);
  }
  return final_norm_(tape, x);
}

Tensor LanguageModel::logits(Arena& arena, const Tensor& hidden) const {
  const Tensor out =
      arena.uninitialized({hidden.size(0), config_->vocab_size}, accumulation_type(dtype_));
  linear::forward(hidden, head_.value(), {}, out);
  return out;
}

void LanguageModel::check_ids(std::span<const std::int32_t> ids) const {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    require(ids[i] >= 0 && ids[i] < config_->vocab_size,
            "model: id {} at position {}; the vocabulary has {} entries", ids[i], i,
            config_->vocab_size);
  }
}

void LanguageModel::advance(Arena& arena, const Batch& batch, State& state,
                            const std::function<void(std::int64_t)>& progress) const {
  require(!config_->bidirectional, "model: a bidirectional model cannot generate");
  check_offsets("model", batch.offsets, static_cast<std::int64_t>(batch.ids.size()));
  const std::int64_t sequences = batch_of(batch.offsets);
  require(sequences == state.batch(), "model: {} sequences for a state of {}", sequences,
          state.batch());
  check_ids(batch.ids.host());
  // All sequences walk together, a window of tokens each at a time.
  const std::int64_t window =
      std::max<std::int64_t>(16, window_tokens(device_) / std::max<std::int64_t>(sequences, 1));
  std::int64_t longest = 0;
  for (std::int64_t b = 0; b < sequences; ++b) {
    longest = std::max(longest, batch.offsets[static_cast<std::size_t>(b) + 1] -
                                    batch.offsets[static_cast<std::size_t>(b)]);
  }
  if (longest <= window) {
    advance_window(arena, batch, state);
    if (progress) progress(static_cast<std::int64_t>(batch.ids.size()));
    return;
  }
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> offsets;
  std::int64_t read = 0;
  for (std::int64_t start = 0; start < longest; start += window) {
    ids.clear();
    offsets.assign(1, 0);
    for (std::size_t b = 0; b < static_cast<std::size_t>(sequences); ++b) {
      const std::int64_t end = batch.offsets[b + 1];
      const std::int64_t from = std::min(batch.offsets[b] + start, end);
      const std::int64_t to = std::min(from + window, end);
      ids.insert(ids.end(), batch.ids.begin() + from, batch.ids.begin() + to);
      offsets.push_back(static_cast<std::int64_t>(ids.size()));
    }
    advance_window(arena, {ids, offsets}, state);
    read += static_cast<std::int64_t>(ids.size());
    if (progress) progress(read);
  }
}

void LanguageModel::advance_window(Arena& arena, const Batch& batch, State& state) const {
  const ArenaScope scope(arena);
  Tape tape(arena, Tape::Mode::compute);
  CarriedState carried(blocks_.size());
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    const LayerState& s = state.layers()[layer];
    const Variable recurrent = Variable::constant(s.recurrent);
    carried[layer].recurrent = {recurrent, recurrent};
    if (!s.conv.defined()) continue;
    const Variable conv = Variable::constant(s.conv);
    carried[layer].conv = {conv, conv};
  }
  const Tensor hidden = this->hidden(tape, batch, carried).value();

  // Logits only where a sequence stands now: after its last token in this batch.
  std::vector<std::int64_t> readers;
  std::vector<std::int32_t> last_tokens;
  for (std::int64_t b = 0; b < batch_of(batch.offsets); ++b) {
    const auto i = static_cast<std::size_t>(b);
    const std::int64_t read = batch.offsets[i + 1] - batch.offsets[i];
    state.tokens()[i] += read;
    if (read == 0) continue;
    readers.push_back(b);
    last_tokens.push_back(static_cast<std::int32_t>(batch.offsets[i + 1] - 1));
  }
  if (!state.logits().defined()) {
    state.logits() =
        Tensor::zeros({state.batch(), config_->vocab_size}, accumulation_type(dtype_), device_);
  }
  const auto count = static_cast<std::int64_t>(readers.size());
  Tensor last = hidden;
  if (count < hidden.size(0)) {
    last = arena.uninitialized({count, config_->width}, dtype_);
    embedding::forward(mirrored(arena, Ids(last_tokens)), hidden, 1.0, last);
  }
  if (count == state.batch()) return linear::forward(last, head_.value(), {}, state.logits());
  const Tensor next = logits(arena, last);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t b = readers[static_cast<std::size_t>(i)];
    state.logits().rows(b, b + 1).copy_from(next.rows(i, i + 1));
  }
}

}  // namespace metala
