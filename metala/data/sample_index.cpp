#include "metala/data/sample_index.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "metala/base/error.h"
#include "metala/data/numpy_shuffle.h"

namespace metala {

Packing packing_named(const std::string& name) {
  if (name == "packed") return Packing::packed;
  if (name == "pack_until_overflow") return Packing::until_overflow;
  if (name == "unpacked") return Packing::unpacked;
  fail("pack_impl \"{}\" is not known; supported: packed, pack_until_overflow, unpacked", name);
}

SampleIndex::SampleIndex(std::int64_t first, std::int64_t last,
                         const std::function<std::int64_t(std::int64_t)>& length_of,
                         const SampleOptions& options,
                         const std::function<bool(std::int64_t)>& useless)
    : length_(options.length) {
  require(length_ >= 1, "data: samples of {} tokens; wanted 1 or more", length_);
  std::int64_t tokens = 0;
  for (std::int64_t d = first; d < last; ++d) tokens += length_of(d);
  require(tokens > 0, "data: the {} documents hold no tokens", last - first);
  if (options.packing != Packing::packed) {
    pack(first, last, length_of, options, useless);
    return;
  }
  if (options.epochs > 0) {
    epochs_ = options.epochs;
  } else {  // least e with (e tokens - 1) div T >= wanted
    const std::int64_t wanted = std::max<std::int64_t>(options.wanted, 2);
    epochs_ = (wanted * length_ + 1 + tokens - 1) / tokens;
  }
  const std::int64_t samples = (epochs_ * tokens - 1) / length_;
  require(samples >= 2,
          "data: {} tokens, read {} times, make {} samples of {} tokens; at least 2 are needed. "
          "Give more text or shorter sequences",
          tokens, epochs_, samples, length_);
  constexpr std::int64_t most = 0xfffffffe;
  require(epochs_ * (last - first) <= most && samples <= most && last <= most,
          "data: {} documents, read {} times, make {} samples; at most {} of each are supported",
          last - first, epochs_, samples, most);

  for (std::int64_t epoch = 0; epoch < epochs_; ++epoch) {
    for (std::int64_t d = first; d < last; ++d) order_.push_back(static_cast<std::uint32_t>(d));
  }
  std::mt19937 random(options.seed);
  if (options.shuffle) numpy_shuffle(random, std::span(order_));
  cut(length_of, samples);
  visits_.resize(static_cast<std::size_t>(samples));
  std::iota(visits_.begin(), visits_.end(), 0u);
  if (options.shuffle) numpy_shuffle(random, std::span(visits_));
}

void SampleIndex::pack(std::int64_t first, std::int64_t last,
                       const std::function<std::int64_t(std::int64_t)>& length_of,
                       const SampleOptions& options,
                       const std::function<bool(std::int64_t)>& useless) {
  require(options.epochs == 0,
          "data: samples of whole documents are counted, not epochs; give train_iters");
  const std::int64_t samples = std::max<std::int64_t>(options.wanted, 2);
  constexpr std::int64_t most = 0xfffffffe;
  require(samples <= most && last <= most, "data: {} samples of {} documents; at most {} of each",
          samples, last - first, most);
  std::mt19937 random(options.seed);
  visits_.resize(static_cast<std::size_t>(samples));
  std::iota(visits_.begin(), visits_.end(), 0u);
  if (options.shuffle) numpy_shuffle(random, std::span(visits_));
  std::vector<std::uint32_t> documents(static_cast<std::size_t>(last - first));
  std::iota(documents.begin(), documents.end(), static_cast<std::uint32_t>(first));
  const bool shuffled = options.shuffle && options.packing == Packing::until_overflow;
  if (shuffled) numpy_shuffle(random, std::span(documents));

  std::int64_t filled = 0;  // tokens of the sample being made
  // One document more than there are samples: what the last but one ends with.
  const auto done = [&] {
    return options.packing == Packing::unpacked
               ? static_cast<std::int64_t>(order_.size()) > samples
               : static_cast<std::int64_t>(places_.size()) >= samples;
  };
  for (epochs_ = 1; !done(); ++epochs_) {
    const std::size_t before = order_.size();
    for (std::size_t i = 0; i < documents.size() && !done(); ++i) {
      const std::int64_t length = length_of(documents[i]);
      if (!options.chopped && length > length_ + 1) continue;
      if (useless && useless(documents[i])) continue;
      const bool alone = options.packing == Packing::unpacked;
      if (alone || filled == 0 || filled + length > length_ + 1) {
        places_.push_back({static_cast<std::uint32_t>(order_.size()), 0});
        filled = 0;
      }
      filled += length;
      order_.push_back(documents[i]);
    }
    require(order_.size() > before,
            "data: no document makes a sample: all are longer than {} tokens or have no label",
            length_ + 1);
    require(static_cast<std::int64_t>(order_.size()) <= most, "data: more than {} documents read",
            most);
    if (shuffled && !done()) numpy_shuffle(random, std::span(documents));
  }
  --epochs_;
  places_.resize(static_cast<std::size_t>(samples));
  places_.push_back({options.packing == Packing::unpacked
                         ? static_cast<std::uint32_t>(samples)
                         : static_cast<std::uint32_t>(order_.size()),
                     0});
}

void SampleIndex::cut(const std::function<std::int64_t(std::int64_t)>& length_of,
                      std::int64_t samples) {
  places_.reserve(static_cast<std::size_t>(samples) + 1);
  Place at;
  places_.push_back(at);
  for (std::int64_t i = 0; i < samples; ++i) {
    std::int64_t missing = length_ + 1;
    for (;;) {
      const std::int64_t left = length_of(order_[at.document]) - at.offset;
      if (left >= missing) {
        at.offset += static_cast<std::uint32_t>(missing - 1);
        break;
      }
      missing -= left;
      ++at.document;
      at.offset = 0;
    }
    places_.push_back(at);
  }
}

}  // namespace metala
