// Generator: draws tokens for a batch of sequences from a model and its state.
//
// The state is the caller's: prompts have been read into it, or it was restored from a file. Each
// `next` reads the tokens drawn before into the state and draws one more for every sequence still
// running, so cost a token does not depend on how much was read. A sequence's tokens depend only
// on its own prompt, its number and the seed, not on the rest of the batch.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "metala/model/language_model.h"
#include "metala/model/stepper.h"
#include "metala/ops/sample/batch_sampler.h"
#include "metala/ops/sample/sample.h"

namespace metala {

struct GenerationOptions {
  sample::Options sampling;
  std::int64_t max_tokens = 256;        // for each sequence
  std::vector<std::int32_t> end_ids;    // a sequence that draws one of these is finished
  std::int32_t log_probabilities = -1;  // -1: none; n: of the token and of the n best
};

enum class Finish { running, end_id, length, stopped };

struct DrawnToken {
  std::int64_t sequence = 0;
  std::int32_t id = 0;
  double log_probability = 0;  // under the model, before penalties and temperature
  std::vector<std::pair<std::int32_t, double>> best;  // the most probable ids
};

class Generator {
 public:
  // `histories`: for each sequence the ids that the repetition penalty looks at (its prompt).
  // Throws Error when the state has read nothing, so that there is nothing to draw from.
  Generator(const LanguageModel&, State&, std::vector<std::vector<std::int32_t>> histories,
            GenerationOptions);

  bool done() const;
  // One token for each running sequence, in the order of sequences. End ids are drawn and returned.
  std::vector<DrawnToken> next();
  // Ends a sequence from outside (a stop string was completed).
  void stop(std::int64_t sequence);
  Finish finish(std::int64_t sequence) const;
  const std::vector<std::int32_t>& drawn(std::int64_t sequence) const;

  // Reads what was drawn last into the state, so that it stands after everything drawn.
  void settle();

 private:
  struct Sequence {
    std::vector<std::int32_t> history;
    std::vector<std::int32_t> drawn;
    Finish finish = Finish::running;
    bool pending = false;  // the last drawn token has not been read yet
  };
  sample::Draw draw_of(std::size_t sequence) const;  // of its next token

  const LanguageModel& model_;
  State& state_;
  GenerationOptions options_;
  std::vector<Sequence> sequences_;
  Stepper stepper_;
  std::unique_ptr<sample::BatchSampler> sampler_;  // on a GPU, where ids are all that is asked
};

}  // namespace metala
