// Choosing the next token from logits.
//
// Order of work: logit bias, repetition penalty, temperature, top-k, top-p, min-p, draw.
//   repetition penalty r:  logits of ids in `recent` are divided by r when positive, else times r
//   temperature 0:         greedy, the first largest logit after bias and penalty
//   top-k:                 the k largest (ties at the border: lowest id first); 0 = all
//   top-p:                 the smallest set of most probable tokens whose probability reaches p
//   min-p:                 tokens with probability >= min_p * that of the most probable
// At least one token always remains. The draw walks those that do, in the order of their ids, by
// number `position` of the Philox stream (seed, stream): it does not depend on the batch. -inf
// logits are never chosen; NaN or all -inf: Error.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace metala::sample {

struct Options {
  double temperature = 1;
  std::int32_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;
  std::vector<std::pair<std::int32_t, float>> logit_bias = {};
  std::uint64_t seed = 0;
};

// Throws Error naming the option and its range.
void check(const Options&);

struct Draw {
  std::uint64_t stream = 0;    // the sequence's number
  std::uint64_t position = 0;  // the token's position in the generation
};

// `recent`: ids the repetition penalty applies to, in any order, repeats allowed.
std::int32_t next(const Options&, std::span<const float> logits,
                  std::span<const std::int32_t> recent, Draw);

// log softmax of the untouched logits at `id`, and the `count` best (id, log-probability), best
// first, ties by id.
double log_probability(std::span<const float> logits, std::int32_t id);
std::vector<std::pair<std::int32_t, double>> top(std::span<const float> logits, std::int32_t count);

}  // namespace metala::sample
