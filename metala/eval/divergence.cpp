#include "metala/eval/divergence.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "metala/base/error.h"

namespace metala {
namespace {

// log softmax of a row of logits, in double.
std::vector<double> log_probabilities(const float* logits, std::int64_t count) {
  const double largest = *std::max_element(logits, logits + count);
  double total = 0;
  for (std::int64_t i = 0; i < count; ++i) total += std::exp(logits[i] - largest);
  const double log_total = largest + std::log(total);
  std::vector<double> result(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    result[static_cast<std::size_t>(i)] = logits[i] - log_total;
  }
  return result;
}

struct Sums {
  Divergence of;
  double original_loss = 0, other_loss = 0;
  double largest_difference = 0, largest_logit = 0;
  std::int64_t predicted = 0, same = 0;

  // `next`: the id that follows, or -1.
  void add(const float* original, const float* other, std::int64_t vocabulary, std::int32_t next) {
    const auto p = log_probabilities(original, vocabulary);
    const auto r = log_probabilities(other, vocabulary);
    double kl = 0;
    for (std::int64_t i = 0; i < vocabulary; ++i) {
      const auto at = static_cast<std::size_t>(i);
      kl += std::exp(p[at]) * (p[at] - r[at]);
      const double difference = std::abs(static_cast<double>(original[i]) - other[i]);
      if (std::isnan(difference)) largest_difference = std::numeric_limits<double>::infinity();
      largest_difference = std::max(largest_difference, difference);
      largest_logit = std::max(largest_logit, std::abs(static_cast<double>(original[i])));
    }
    of.kl += kl;
    of.largest_kl = std::max(of.largest_kl, kl);
    ++of.tokens;
    same += std::max_element(p.begin(), p.end()) - p.begin() ==
            std::max_element(r.begin(), r.end()) - r.begin();
    if (next < 0) return;
    original_loss -= p[static_cast<std::size_t>(next)];
    other_loss -= r[static_cast<std::size_t>(next)];
    ++predicted;
  }

  Divergence result() {
    const auto count = static_cast<double>(of.tokens);
    of.kl /= count;
    of.same_best = static_cast<double>(same) / count;
    of.logit_error = largest_difference / largest_logit;
    of.original_perplexity = std::exp(original_loss / static_cast<double>(predicted));
    of.other_perplexity = std::exp(other_loss / static_cast<double>(predicted));
    return of;
  }
};

}  // namespace

Divergence divergence(const LanguageModel& original, const LanguageModel& other,
                      std::span<const std::int32_t> ids, std::span<const std::int64_t> offsets) {
  const std::int64_t vocabulary = original.config().vocab_size;
  require(other.config().vocab_size == vocabulary,
          "divergence: the vocabularies have {} and {} ids", vocabulary, other.config().vocab_size);
  require(!ids.empty(), "divergence: no tokens");
  Sums sums;
  Arena arena(original.device()), other_arena(other.device());
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const auto length = offsets[b + 1] - offsets[b];
    const auto sequence =
        ids.subspan(static_cast<std::size_t>(offsets[b]), static_cast<std::size_t>(length));
    const std::vector<std::int64_t> whole = {0, length};
    arena.reset();
    other_arena.reset();
    Tape tape(arena, Tape::Mode::compute), other_tape(other_arena, Tape::Mode::compute);
    const Tensor x =
        original.logits(arena, original.hidden(tape, {sequence, whole}).value()).to({});
    const Tensor y =
        other.logits(other_arena, other.hidden(other_tape, {sequence, whole}).value()).to({});
    for (std::int64_t t = 0; t < length; ++t) {
      sums.add(x.row(t).data<float>(), y.row(t).data<float>(), vocabulary,
               t + 1 < length ? sequence[static_cast<std::size_t>(t + 1)] : -1);
    }
  }
  return sums.result();
}

}  // namespace metala
