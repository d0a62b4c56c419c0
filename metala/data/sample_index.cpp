#include "metala/data/sample_index.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "metala/base/error.h"
#include "metala/data/numpy_shuffle.h"

namespace metala {

SampleIndex::SampleIndex(std::int64_t first, std::int64_t last,
                         const std::function<std::int64_t(std::int64_t)>& length_of,
                         const SampleOptions& options)
    : length_(options.length) {
  require(length_ >= 1, "data: samples of {} tokens; wanted 1 or more", length_);
  std::int64_t tokens = 0;
  for (std::int64_t d = first; d < last; ++d) tokens += length_of(d);
  require(tokens > 0, "data: the {} documents hold no tokens", last - first);
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
