#include "metala/train/text_task.h"

#include <algorithm>
#include <bit>

#include "metala/base/random.h"

namespace metala {
namespace {

constexpr std::int64_t most_tokens = std::int64_t{1} << 40;  // of a batch: beyond any memory

}  // namespace

std::uint64_t permuted(std::uint64_t i, std::uint64_t n, std::uint64_t seed, std::uint64_t stream) {
  if (n <= 1) return 0;
  const int half = static_cast<int>((std::bit_width(n - 1) + 1) / 2);
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  const Philox random(seed, stream);
  do {
    std::uint64_t left = i >> half;
    std::uint64_t right = i & mask;
    for (std::uint64_t round = 0; round < 4; ++round) {
      const std::uint64_t f = random.block((round << 56) ^ right)[0];
      const std::uint64_t next = left ^ (f & mask);
      left = right;
      right = next;
    }
    i = (left << half) | right;
  } while (i >= n);
  return i;
}

TextTask::TextTask(TokenStream training, TokenStream validation, TextTaskOptions options)
    : training_(std::move(training)), validation_(std::move(validation)), options_(options) {
  require(training_.tokens.size() >= 2, "train: the training data has {} tokens; at least 2 needed",
          training_.tokens.size());
  require(options_.length >= 1 && options_.sequences >= 1,
          "train: {} sequences of {} tokens in a batch", options_.sequences, options_.length);
  require(options_.sequences <= most_tokens / options_.length,
          "train: {} sequences of {} tokens in a batch; wanted at most {} tokens",
          options_.sequences, options_.length, most_tokens);
}

std::int64_t TextTask::windows_per_epoch() const {
  const auto usable = static_cast<std::int64_t>(training_.tokens.size()) - 1;
  return std::max<std::int64_t>(1, usable / options_.length);
}

std::int64_t TextTask::window_start(std::int64_t window) const {
  const std::int64_t each = windows_per_epoch();
  const auto epoch = static_cast<std::uint64_t>(window / each);
  const auto within = permuted(static_cast<std::uint64_t>(window % each),
                               static_cast<std::uint64_t>(each), options_.seed, 2 * epoch);
  // What does not fill a window is left out at a different end in every epoch.
  const std::int64_t usable = static_cast<std::int64_t>(training_.tokens.size()) - 1;
  const std::int64_t slack = std::max<std::int64_t>(0, usable - each * options_.length);
  const auto shift =
      Philox(options_.seed, 2 * epoch + 1).below(0, static_cast<std::uint64_t>(slack) + 1);
  return static_cast<std::int64_t>(within) * options_.length + static_cast<std::int64_t>(shift);
}

void TextTask::add_window(const TokenStream& from, std::int64_t start, LabelledBatch& batch) const {
  const auto count = static_cast<std::int64_t>(from.tokens.size());
  const std::int64_t end = std::min(start + options_.length, count);
  for (std::int64_t i = start; i < end; ++i) {
    const auto at = static_cast<std::size_t>(i);
    batch.ids.push_back(from.tokens[at]);
    if (!from.labels.empty()) {
      batch.labels.push_back(from.labels[at]);
    } else {
      batch.labels.push_back(i + 1 < count ? from.tokens[at + 1] : -100);
    }
  }
  batch.offsets.push_back(static_cast<std::int64_t>(batch.ids.size()));
}

LabelledBatch TextTask::training_batch(std::int64_t index) const {
  LabelledBatch batch;
  batch.offsets = {0};
  for (std::int64_t i = 0; i < options_.sequences; ++i) {
    add_window(training_, window_start(index * options_.sequences + i), batch);
  }
  return batch;
}

std::int64_t TextTask::validation_batches() const {
  const auto tokens = static_cast<std::int64_t>(validation_.tokens.size());
  const std::int64_t each = options_.length * options_.sequences;
  return tokens < 2 ? 0 : (tokens + each - 1) / each;
}

LabelledBatch TextTask::validation_batch(std::int64_t index) const {
  LabelledBatch batch;
  batch.offsets = {0};
  const auto tokens = static_cast<std::int64_t>(validation_.tokens.size());
  for (std::int64_t i = 0; i < options_.sequences; ++i) {
    const std::int64_t start = (index * options_.sequences + i) * options_.length;
    if (start >= tokens) break;
    add_window(validation_, start, batch);
  }
  // The text's bytes are charged to the first batch; only their sum over all batches means much.
  if (index == 0) batch.bytes = validation_.bytes;
  return batch;
}

}  // namespace metala
