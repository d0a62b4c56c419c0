// FusedStep: one token for each sequence on a GPU, in a handful of kernels a layer (ops/decode).
//
// The same model as LanguageModel's, for bf16 weights. It differs in rounding only: the residual
// stream and what the projections give stay float32. Models it does not take go through
// LanguageModel::advance.
#pragma once

#include <cstdint>

#include "metala/model/language_model.h"
#include "metala/model/state.h"

namespace metala {

class FusedStep {
 public:
  // Whether it knows the model: matrices in bf16 whose columns are a multiple of 32 and, but for
  // the head's, whose rows are one of 8; heads' values in a multiple of 4; any activation but exp.
  static bool takes(const LanguageModel&);

  // For `batch` sequences. The model must outlive it.
  FusedStep(const LanguageModel&, std::int64_t batch);

  // Enqueues the reading of ids[b], which lie on the GPU and are in the vocabulary, into sequence
  // b: the layers' states and the logits, which must be there. With `some`, ids may be negative:
  // such sequences stand still. Allocates nothing, and counts nothing.
  void advance(const std::int32_t* ids, bool some, State&) const;

 private:
  void mix_tokens(const Block&, const std::int32_t* ids_of_some, const LayerState&) const;
  void mix_channels(const Block&) const;

  const LanguageModel& model_;
  Tensor x_;         // [B, d] f32, the residual stream
  Tensor y_;         // [B, d] bf16, what products read
  Tensor normed_;    // [B, d] f32, the convolution's next input
  Tensor mixed_;     // [B, all projections] f32: q, u, k, v, z, those that there are
  Tensor o_, h_;     // [B, d] and [B, f] bf16
  Tensor products_;  // [B, 2 f] f32, of the channel mixer when there are many sequences
  Tensor logits_;    // [B, V] f32, of all sequences where some stand still
};

}  // namespace metala
