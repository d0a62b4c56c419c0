// Block: one layer of the model.
//
//   x = x + token_mixer(norm(x))        (short conv -> q, u, v, z -> MetaLA attention -> out_proj)
//   x = x + channel_mixer(norm(x))      (GLU, MLP, or the norm alone)
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "metala/autograd/functions.h"
#include "metala/distributed/communicator.h"
#include "metala/model/config.h"
#include "metala/model/parameters.h"

namespace metala {

// A layer's states as variables; absent ones are zero (before) or not wanted (after).
struct CarriedLayer {
  functions::Carried recurrent;
  functions::Carried conv;
  // The ranks that hold the parts of these sequences, if they lie on several: then states come from
  // the rank before (autograd/context_parallel.h), and those above must be absent.
  Communicator* context = nullptr;
  Mirrored<std::int64_t> origins = {};  // [B], with a context: Batch's (language_model.h)
};

// What only training uses.
struct TrainingOptions {
  bool recompute_blocks = false;  // keep one activation a block, run the block again backwards
  std::uint64_t dropout_seed = 0;
  std::uint64_t step = 0;       // distinct steps draw distinct dropout masks
  bool freeze_padding = false;  // Hugging Face's padding_idx: no gradient from lookups of pad
  // Told, in the backward pass, that the gradients of a layer's parameters and of all that follows
  // it are complete. May be empty.
  std::function<void(std::int64_t layer)> layer_done = {};
};

// The mask of one use of dropout: a pure function of seed, step and place.
dropout::Mask dropout_mask(double probability, const TrainingOptions&, std::uint64_t place);

// The tensors of a block; undefined where the configuration has none.
struct BlockWeights {
  Variable conv;  // taps [d, W]
  Variable q_proj, k_gate, k_proj, v_proj, g_proj, g_bias, out_proj;
  Variable aug_balance, fixed_decay;
  Variable l1, l1_bias, l2, l2_bias, l3, l3_bias;
};

// A norm of either type, with the parameters it has: none for simplermsnorm.
class Norm {
 public:
  Norm() = default;
  Norm(const Config&, const Parameters&, const std::string& name);
  Variable operator()(Tape&, const Variable& x) const;

  double eps() const;
  const Variable& weight() const { return weight_; }  // [d]; undefined for simplermsnorm
  const Variable& bias() const { return bias_; }

 private:
  NormType type_ = NormType::simplermsnorm;
  Variable weight_, bias_;
};

metala_attention::Options attention_options(const Config&);

class Block {
 public:
  Block(std::shared_ptr<const Config>, const Parameters&, std::int64_t layer);

  // x [N, d]. On a computing tape the result lies in x's own memory. `training` is null outside of
  // training.
  Variable operator()(Tape&, const Variable& x, Offsets, const CarriedLayer&,
                      const TrainingOptions* training) const;

  const Norm& token_norm() const { return token_norm_; }
  const Norm& channel_norm() const { return channel_norm_; }
  const BlockWeights& weights() const { return w_; }

 private:
  functions::AttentionInputs project(Tape&, const Variable& y, Offsets, const CarriedLayer&) const;
  Variable mix_tokens(Tape&, const Variable& x, Offsets, const CarriedLayer&,
                      const TrainingOptions*) const;
  Variable mix_channels(Tape&, const Variable& x) const;
  functions::Onto onto(const Variable& x, const Variable& weight, const Variable& bias) const;

  std::shared_ptr<const Config> config_;
  std::int64_t layer_;
  Norm token_norm_, channel_norm_;
  BlockWeights w_;
};

}  // namespace metala
