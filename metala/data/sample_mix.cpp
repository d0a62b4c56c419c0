#include "metala/data/sample_mix.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "metala/base/error.h"

namespace metala {

SampleMix::Part SampleMix::part(std::shared_ptr<const TokenDataset> dataset, std::int64_t first,
                                std::int64_t last, const SampleOptions& options) {
  const TokenDataset& set = *dataset;
  std::int64_t tokens = 0;
  for (std::int64_t d = first; d < last; ++d) tokens += set.length(d);
  try {
    SampleIndex index(
        first, last, [&](std::int64_t d) { return std::int64_t{set.length(d)}; }, options);
    return {std::move(dataset), std::move(index), tokens};
  } catch (const Error& e) {
    fail("{}: {}", set.prefix(), e.what());
  }
}

SampleMix SampleMix::of_range(std::shared_ptr<const TokenDataset> dataset, std::int64_t first,
                              std::int64_t last, const SampleOptions& options) {
  SampleMix mix;
  if (first >= last || (options.wanted == 0 && options.epochs == 0)) return mix;
  mix.parts_.push_back(part(std::move(dataset), first, last, options));
  return mix;
}

SampleMix SampleMix::of_files(const std::vector<std::string>& prefixes, std::vector<double> weights,
                              const SampleOptions& options) {
  SampleMix mix;
  if (prefixes.empty() || (options.wanted == 0 && options.epochs == 0)) return mix;
  if (weights.empty()) weights.assign(prefixes.size(), 1.0);
  require(weights.size() == prefixes.size(), "data: {} datasets but {} weights", prefixes.size(),
          weights.size());
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  require(sum > 0, "data: the weights of a blend sum to 0");
  std::vector<double> used;
  std::int64_t samples = 0;
  for (std::size_t d = 0; d < prefixes.size(); ++d) {
    if (weights[d] == 0) continue;
    auto dataset = std::make_shared<const TokenDataset>(TokenDataset::open(prefixes[d]));
    SampleOptions own = options;
    own.wanted = static_cast<std::int64_t>(
        std::ceil(static_cast<double>(options.wanted) * (weights[d] / sum) * 1.005));
    const std::int64_t documents = dataset->documents();
    mix.parts_.push_back(part(std::move(dataset), 0, documents, own));
    used.push_back(weights[d]);
    samples += mix.parts_.back().index.size();
  }
  mix.blend_.emplace(used, samples);
  return mix;
}

std::int64_t SampleMix::size() const {
  if (parts_.empty()) return 0;
  return blend_ ? blend_->size() : parts_.front().index.size();
}

std::int64_t SampleMix::epochs() const {
  std::int64_t most = 0;
  for (const auto& p : parts_) most = std::max(most, p.index.epochs());
  return most;
}

std::int64_t SampleMix::tokens() const {
  std::int64_t sum = 0;
  for (const auto& p : parts_) sum += p.tokens;
  return sum;
}

void SampleMix::read(std::int64_t i, std::int64_t vocabulary, std::span<std::int32_t> tokens,
                     std::vector<std::int64_t>* borders) const {
  const Blend::Choice choice = blend_ ? (*blend_)[i % size()] : Blend::Choice{0, i};
  const Part& from = parts_[static_cast<std::size_t>(choice.corpus)];
  SampleIndex::Place at = from.index.first(choice.sample);
  if (borders != nullptr) borders->clear();
  for (std::size_t done = 0; done < tokens.size();) {
    const std::int64_t document = from.index.document(at.document);
    const std::int64_t left = from.dataset->length(document) - std::int64_t{at.offset};
    const auto count = std::min(static_cast<std::size_t>(left), tokens.size() - done);
    if (count > 0) {
      const auto part = tokens.subspan(done, count);
      from.dataset->read(document, at.offset, part);
      const auto largest = *std::max_element(part.begin(), part.end());
      require(largest < vocabulary,
              "{}: document {} holds id {}, the tokenizer has {} ids; prepare the data with the "
              "tokenizer of this run",
              from.dataset->prefix(), document, largest, vocabulary);
      if (borders != nullptr && done > 0) borders->push_back(static_cast<std::int64_t>(done));
      done += count;
    }
    ++at.document;
    at.offset = 0;
  }
}

}  // namespace metala
