// LanguageModel: token ids in, next-token logits out; the one definition of the model for training,
// prefill and decoding.
//
//   x = E[ids] (times sqrt(d) if configured)
//   for each layer:  x = x + token_mixer(norm(x));   x = x + channel_mixer(norm(x))
//   logits = norm(x) W_head^T                         W_head = E when tied
//
// Sequences of a batch lie end to end without padding (base/ragged.h).
// Source: Chou et al., NeurIPS 2024 (arXiv:2411.10741), and the authors' released code.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "metala/autograd/functions.h"
#include "metala/model/block.h"
#include "metala/model/config.h"
#include "metala/model/parameters.h"
#include "metala/model/state.h"

namespace metala {

// What a pass reads. The memory of ids and offsets must outlive the tape's backward pass, as must
// the model and TrainingOptions.
struct Batch {
  Ids ids;  // [N]
  Offsets offsets;
  Communicator* context = nullptr;  // ranks that hold the parts of these sequences, in order
  // With a context, [B]: the places that the sequences' first tokens have in the batch of whole
  // sequences, so that dropout draws for every token what it would draw there.
  Mirrored<std::int64_t> origins = {};
};

using CarriedState = std::vector<CarriedLayer>;  // one for each layer, or empty: no state

class LanguageModel {
 public:
  // Parameters must hold every tensor that expected_tensors(config) lists (checkpoint.h). Matrices
  // are used in their own type; vectors in 16 bits are widened to f32. All f64 makes a model in
  // f64. When the parameters have gradients, passes on a recording tape add to them.
  LanguageModel(const Config&, const Parameters&);

  const Config& config() const { return *config_; }
  DType dtype() const { return dtype_; }  // of activations: f32, f64, or bf16 on a GPU
  Device device() const { return device_; }

  // The hidden vectors after the final norm, [N, d]. Throws Error for ids outside the vocabulary.
  // `training` is null outside of training.
  Variable hidden(Tape&, const Batch&, const CarriedState& = {},
                  const TrainingOptions* training = nullptr) const;

  const Variable& embedding() const { return embedding_; }  // [V, d]
  double embedding_scale() const;
  const std::vector<Block>& blocks() const { return blocks_; }
  const Norm& final_norm() const { return final_norm_; }
  const Variable& head() const { return head_; }      // [V, d]
  Tensor logits(Arena&, const Tensor& hidden) const;  // [rows, d] to [rows, V]

  // Throws Error for an id outside the vocabulary.
  void check_ids(std::span<const std::int32_t> ids) const;

  // Reads the batch's tokens into the state: a prompt of any length in bounded memory, or one token
  // for each sequence. Sets the state's logits of every sequence that read a token. `progress`, if
  // given, is told the number of tokens read so far. Not for a bidirectional model.
  void advance(Arena&, const Batch&, State&,
               const std::function<void(std::int64_t)>& progress = {}) const;

 private:
  void advance_window(Arena&, const Batch&, State&) const;

  std::shared_ptr<const Config> config_;
  DType dtype_ = DType::f32;
  Device device_;
  Variable embedding_;
  std::vector<Block> blocks_;
  Norm final_norm_;
  Variable head_;
};

}  // namespace metala
