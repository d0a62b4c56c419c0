#include "metala/data/sample_mix.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "metala/base/error.h"

namespace metala {
namespace {

bool nothing_to_learn(const TokenDataset& labels, std::int64_t document, std::int64_t tokens) {
  std::vector<std::int32_t> own(
      static_cast<std::size_t>(std::min<std::int64_t>(labels.length(document), tokens)));
  labels.read_labels(document, 0, own);
  return std::all_of(own.begin(), own.end(), [](std::int32_t label) { return label == -100; });
}

}  // namespace

SampleMix::Part SampleMix::part(std::shared_ptr<const TokenDataset> dataset,
                                std::shared_ptr<const TokenDataset> labels, std::int64_t first,
                                std::int64_t last, const SampleOptions& options,
                                const IndexMapOptions& keeping) {
  const TokenDataset& set = *dataset;
  if (labels != nullptr) check_labels(set, *labels);
  std::int64_t tokens = 0;
  for (std::int64_t d = first; d < last; ++d) tokens += set.length(d);
  std::function<bool(std::int64_t)> useless;
  if (labels != nullptr) {
    const std::int64_t read = options.length + (options.packing == Packing::unpacked ? 0 : 1);
    useless = [&labels, read](std::int64_t d) { return nothing_to_learn(*labels, d, read); };
  }
  try {
    SampleIndex index = sample_index(
        set.prefix(), first, last, [&](std::int64_t d) { return std::int64_t{set.length(d)}; },
        options, useless, keeping);
    return {std::move(dataset), std::move(labels), std::move(index), tokens,
            options.packing != Packing::packed};
  } catch (const Error& e) {
    fail("{}: {}", set.prefix(), e.what());
  }
}

SampleMix SampleMix::of_range(std::shared_ptr<const TokenDataset> dataset, std::int64_t first,
                              std::int64_t last, const SampleOptions& options,
                              std::shared_ptr<const TokenDataset> labels,
                              const IndexMapOptions& keeping) {
  SampleMix mix;
  if (first >= last || (options.wanted == 0 && options.epochs == 0)) return mix;
  mix.parts_.push_back(part(std::move(dataset), std::move(labels), first, last, options, keeping));
  return mix;
}

SampleMix SampleMix::of_files(const std::vector<std::string>& prefixes, std::vector<double> weights,
                              const SampleOptions& options, const std::vector<std::string>& labels,
                              const IndexMapOptions& keeping) {
  SampleMix mix;
  require(labels.empty() || labels.size() == prefixes.size(),
          "data: {} datasets but {} datasets of labels", prefixes.size(), labels.size());
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
    std::shared_ptr<const TokenDataset> own_labels;
    if (!labels.empty() && !labels[d].empty()) {
      own_labels = std::make_shared<const TokenDataset>(TokenDataset::open(labels[d]));
    }
    SampleOptions own = options;
    const double wanted =
        std::ceil(static_cast<double>(options.wanted) * (weights[d] / sum) * 1.005);
    require(wanted < 0x1p63, "{}: {} samples wanted of it; give a smaller number", prefixes[d],
            wanted);
    own.wanted = static_cast<std::int64_t>(wanted);
    IndexMapOptions own_keeping = keeping;
    if (!keeping.part.empty()) own_keeping.part = fmt::format("{}_{}", keeping.part, d);
    const std::int64_t documents = dataset->documents();
    mix.parts_.push_back(
        part(std::move(dataset), std::move(own_labels), 0, documents, own, own_keeping));
    used.push_back(weights[d]);
    samples += mix.parts_.back().index.size();
  }
  mix.blend_.emplace(used, samples);
  return mix;
}

bool SampleMix::labelled() const {
  return std::any_of(parts_.begin(), parts_.end(),
                     [](const Part& part) { return part.labels != nullptr; });
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

std::int64_t SampleMix::read(std::int64_t i, std::int64_t vocabulary,
                             std::span<std::int32_t> tokens, std::vector<std::int64_t>* borders,
                             std::span<std::int32_t> labels) const {
  const Blend::Choice choice = blend_ ? (*blend_)[i % size()] : Blend::Choice{0, i};
  const Part& from = parts_[static_cast<std::size_t>(choice.corpus)];
  SampleIndex::Place at = from.index.first(choice.sample);
  const SampleIndex::Place last = from.index.last(choice.sample);
  if (borders != nullptr) borders->clear();
  std::size_t done = 0;
  while (done < tokens.size()) {
    if (from.whole_documents &&
        (at.document > last.document || std::int64_t{at.document} == from.index.documents())) {
      break;
    }
    require(at.document < from.index.documents(), "{}: sample {} runs out of documents",
            from.dataset->prefix(), i);
    const std::int64_t document = from.index.document(at.document);
    std::int64_t left = from.dataset->length(document) - std::int64_t{at.offset};
    require(left >= 0, "{}: sample {} begins behind the end of document {}", from.dataset->prefix(),
            i, document);
    if (from.whole_documents && at.document == last.document)
      left = std::min<std::int64_t>(left, 1);
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
      if (from.labels == nullptr && !labels.empty()) {
        std::copy(part.begin(), part.end(), labels.begin() + static_cast<std::ptrdiff_t>(done));
      } else if (!labels.empty()) {
        const auto own = labels.subspan(done, count);
        from.labels->read_labels(document, at.offset, own);
        const auto most = *std::max_element(own.begin(), own.end());
        require(most < vocabulary, "{}: document {} holds label {}, the tokenizer has {} ids",
                from.labels->prefix(), document, most, vocabulary);
      }
      done += count;
    }
    ++at.document;
    at.offset = 0;
  }
  std::fill(tokens.begin() + static_cast<std::ptrdiff_t>(done), tokens.end(), 0);
  if (!labels.empty()) {
    std::fill(labels.begin() + static_cast<std::ptrdiff_t>(done), labels.end(), -100);
  }
  return static_cast<std::int64_t>(done);
}

}  // namespace metala
