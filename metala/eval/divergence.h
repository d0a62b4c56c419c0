// How far a model is from another in what it predicts: a converted or quantised one from its
// original.
#pragma once

#include <cstdint>
#include <span>

#include "metala/model/language_model.h"

namespace metala {

// Over all tokens of some sequences, in double.
struct Divergence {
  std::int64_t tokens = 0;
  double kl = 0;          // mean of KL(original || other) in nats a token
  double largest_kl = 0;  // of one token
  double logit_error =
      0;                 // largest |difference| of logits over the largest |logit| of the original
  double same_best = 0;  // share of tokens with the same most likely successor
  // Of the ids themselves, by each model; what follows a sequence's last id is not counted.
  double original_perplexity = 0;
  double other_perplexity = 0;
};

// Both models must have the same vocabulary. Throws Error otherwise, or when there is no token.
Divergence divergence(const LanguageModel& original, const LanguageModel& other,
                      std::span<const std::int32_t> ids, std::span<const std::int64_t> offsets);

}  // namespace metala
