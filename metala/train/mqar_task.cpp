#include "metala/train/mqar_task.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "metala/base/random.h"
#include "metala/train/text_task.h"

namespace metala {
namespace {

// Distinct tokens from [low, low + count), in random order.
class DistinctTokens {
 public:
  DistinctTokens(const Philox& random, std::uint64_t& counter)
      : random_(random), counter_(counter) {}

  std::vector<std::int32_t> draw(std::int64_t how_many, std::int64_t low, std::int64_t count) {
    std::vector<std::int32_t> tokens;
    while (static_cast<std::int64_t>(tokens.size()) < how_many) {
      const auto token =
          static_cast<std::int32_t>(low + static_cast<std::int64_t>(random_.below(
                                              counter_++, static_cast<std::uint64_t>(count))));
      if (std::find(tokens.begin(), tokens.end(), token) == tokens.end()) tokens.push_back(token);
    }
    return tokens;
  }

 private:
  const Philox& random_;
  std::uint64_t& counter_;
};

}  // namespace

MqarTask::MqarTask(const MqarOptions& options) : options_(options) {
  const auto& o = options_;
  require(o.length >= 4 && o.length % 2 == 0, "mqar: the length is {}; wanted an even number",
          o.length);
  require(o.pairs >= 1 && o.pairs <= o.length / 4,
          "mqar: {} pairs in {} tokens; wanted at least four tokens a pair", o.pairs, o.length);
  require(o.vocabulary > o.length && o.pairs < o.vocabulary / 2,
          "mqar: a vocabulary of {} for length {} and {} pairs; wanted more tokens than the length",
          o.vocabulary, o.length, o.pairs);
  require(o.batch >= 1 && o.training_examples >= o.batch && o.validation_examples >= 0,
          "mqar: {} training examples in batches of {}", o.training_examples, o.batch);
}

void MqarTask::add_example(std::uint64_t stream, std::int64_t index, LabelledBatch& batch) const {
  const auto& o = options_;
  const Philox random(o.seed, (stream << 48) | static_cast<std::uint64_t>(index));
  std::uint64_t counter = 0;
  DistinctTokens distinct(random, counter);
  const std::int64_t half = o.vocabulary / 2;
  const auto keys = distinct.draw(o.pairs, 1, half - 1);
  const auto values = distinct.draw(o.pairs, half, o.vocabulary - half);

  const std::size_t start = batch.ids.size();
  batch.ids.resize(start + static_cast<std::size_t>(o.length), 0);
  batch.labels.resize(batch.ids.size(), -100);
  std::int32_t* ids = batch.ids.data() + start;
  std::int32_t* labels = batch.labels.data() + start;
  for (std::size_t j = 0; j < keys.size(); ++j) {
    ids[2 * j] = keys[j];
    ids[2 * j + 1] = values[j];
  }
  const std::int64_t zone = 2 * o.pairs;
  if (o.random_filler) {
    for (std::int64_t i = zone; i < o.length; ++i) {
      ids[i] = static_cast<std::int32_t>(
          random.below(counter++, static_cast<std::uint64_t>(o.vocabulary)));
    }
  }
  std::vector<double> weights;
  for (std::int64_t i = 0; i < (o.length - zone) / 2; ++i) {
    weights.push_back(std::pow(static_cast<double>(i + 1), o.power - 1));
  }
  for (std::size_t j = 0; j < keys.size(); ++j) {
    double total = 0;
    for (const double w : weights) total += w;
    double left = random.uniform(counter++) * total;
    std::size_t slot = 0;
    std::size_t chosen = weights.size();
    for (; slot < weights.size(); ++slot) {
      if (weights[slot] == 0) continue;
      chosen = slot;  // the last free slot, should rounding carry the walk past all
      left -= weights[slot];
      if (left < 0) break;
    }
    weights[chosen] = 0;
    ids[zone + 2 * static_cast<std::int64_t>(chosen)] = keys[j];
    labels[zone + 2 * static_cast<std::int64_t>(chosen)] = values[j];
  }
  batch.offsets.push_back(static_cast<std::int64_t>(batch.ids.size()));
}

LabelledBatch MqarTask::training_batch(std::int64_t index) const {
  const std::int64_t batches = options_.training_examples / options_.batch;
  const auto epoch = static_cast<std::uint64_t>(index / batches);
  const std::int64_t first = index % batches * options_.batch;
  LabelledBatch batch;
  batch.offsets = {0};
  for (std::int64_t i = first; i < first + options_.batch; ++i) {
    const auto example = permuted(static_cast<std::uint64_t>(i),
                                  static_cast<std::uint64_t>(options_.training_examples),
                                  options_.seed, (std::uint64_t{3} << 48) | epoch);
    add_example(0, static_cast<std::int64_t>(example), batch);
  }
  return batch;
}

std::int64_t MqarTask::validation_batches() const {
  return (options_.validation_examples + options_.batch - 1) / options_.batch;
}

LabelledBatch MqarTask::validation_batch(std::int64_t index) const {
  LabelledBatch batch;
  batch.offsets = {0};
  const std::int64_t first = index * options_.batch;
  const std::int64_t last = std::min(first + options_.batch, options_.validation_examples);
  for (std::int64_t i = first; i < last; ++i) add_example(1, i, batch);
  return batch;
}

}  // namespace metala
