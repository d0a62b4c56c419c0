#include "metala/generate/generator.h"

#include <algorithm>

namespace metala {

Generator::Generator(const LanguageModel& model, State& state,
                     std::vector<std::vector<std::int32_t>> histories, GenerationOptions options)
    : model_(model), state_(state), options_(std::move(options)), stepper_(model, state) {
  sample::check(options_.sampling);
  require(static_cast<std::int64_t>(histories.size()) == state.batch(),
          "generate: {} prompts for a state of {} sequences", histories.size(), state.batch());
  for (std::size_t i = 0; i < histories.size(); ++i) {
    require(state.tokens()[i] > 0,
            "generate: sequence {} has read no token; give a prompt or a saved state", i);
    sequences_.push_back({std::move(histories[i]), {}, Finish::running, false});
    if (options_.max_tokens <= 0) sequences_.back().finish = Finish::length;
  }
  const bool ids_suffice = options_.log_probabilities < 0 && model.device().is_cuda() &&
                           sample::BatchSampler::covers(options_.sampling);
  if (ids_suffice) {
    sampler_ =
        std::make_unique<sample::BatchSampler>(model.device(), state.batch(), options_.sampling);
  }
}

bool Generator::done() const {
  return std::all_of(sequences_.begin(), sequences_.end(),
                     [](const Sequence& s) { return s.finish != Finish::running; });
}

std::vector<DrawnToken> Generator::next() {
  settle();
  std::vector<DrawnToken> tokens;
  std::span<const std::int32_t> chosen;
  Tensor all_logits;
  if (sampler_ != nullptr) {
    std::vector<sample::Draw> draws;
    for (std::size_t i = 0; i < sequences_.size(); ++i) draws.push_back(draw_of(i));
    chosen = sampler_->choose(state_.logits(), draws);
  } else {
    all_logits = state_.logits().to({});
  }
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    Sequence& s = sequences_[i];
    if (s.finish != Finish::running) continue;
    DrawnToken token;
    token.sequence = static_cast<std::int64_t>(i);
    std::span<const float> logits;
    if (sampler_ != nullptr) {
      token.id = chosen[i];
    } else {
      logits = {all_logits.row(token.sequence).data<float>(),
                static_cast<std::size_t>(model_.config().vocab_size)};
      token.id = sample::next(options_.sampling, logits, s.history, draw_of(i));
    }
    if (options_.log_probabilities >= 0) {
      token.log_probability = sample::log_probability(logits, token.id);
      token.best = sample::top(logits, options_.log_probabilities);
    }
    s.history.push_back(token.id);
    s.drawn.push_back(token.id);
    s.pending = true;
    const auto& ends = options_.end_ids;
    if (std::find(ends.begin(), ends.end(), token.id) != ends.end()) {
      s.finish = Finish::end_id;
    } else if (static_cast<std::int64_t>(s.drawn.size()) >= options_.max_tokens) {
      s.finish = Finish::length;
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

sample::Draw Generator::draw_of(std::size_t sequence) const {
  return {sequence, sequences_[sequence].drawn.size()};
}

void Generator::stop(std::int64_t sequence) {
  Sequence& s = sequences_.at(static_cast<std::size_t>(sequence));
  if (s.finish == Finish::running || s.finish == Finish::length) s.finish = Finish::stopped;
}

Finish Generator::finish(std::int64_t sequence) const {
  return sequences_.at(static_cast<std::size_t>(sequence)).finish;
}

const std::vector<std::int32_t>& Generator::drawn(std::int64_t sequence) const {
  return sequences_.at(static_cast<std::size_t>(sequence)).drawn;
}

void Generator::settle() {
  std::vector<std::int32_t> ids;
  for (Sequence& s : sequences_) {
    ids.push_back(s.pending ? s.drawn.back() : -1);  // those that have ended stand still
    s.pending = false;
  }
  stepper_.advance(ids);
}

}  // namespace metala
