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

// A norm of either type, with the parameters it has: none for simplermsnorm.
class Norm {
 public:
  Norm() = default;
  Norm(const Config&, const Parameters&, const std::string& name);
  Variable operator()(Tape&, const Variable& x) const;

 private:
  NormType type_ = NormType::simplermsnorm;
  Variable weight_, bias_;
};

class Block {
 public:
  Block(std::shared_ptr<const Config>, const Parameters&, std::int64_t layer);

  // x [N, d]. On a computing tape the result lies in x's own memory. `training` is null outside of
  // training.
  Variable operator()(Tape&, const Variable& x, Offsets, const CarriedLayer&,
                      const TrainingOptions* training) const;

 private:
  Variable mix_tokens(Tape&, const Variable& x, Offsets, const CarriedLayer&,
                      const TrainingOptions*) const;
  Variable mix_channels(Tape&, const Variable& x) const;

  std::shared_ptr<const Config> config_;
  std::int64_t layer_;
  Norm token_norm_, channel_norm_;
  Variable conv_, q_proj_, k_gate_, k_proj_, v_proj_, g_proj_, g_bias_, out_proj_;
  Variable aug_balance_, fixed_decay_;
  Variable l1_, l1_bias_, l2_, l2_bias_, l3_, l3_bias_;
};

}  // namespace metala
