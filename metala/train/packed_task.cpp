#include "metala/train/packed_task.h"

#include <algorithm>

#include "metala/base/error.h"

namespace metala {

PackedTask::PackedTask(SampleMix training, SampleMix validation, PackedTaskOptions options)
    : training_(std::move(training)),
      validation_(std::move(validation)),
      options_(std::move(options)) {
  require(options_.length >= 1 && options_.sequences >= 1,
          "train: {} sequences of {} tokens in a batch", options_.sequences, options_.length);
  for (const SampleMix* mix : {&training_, &validation_}) {
    require(mix->size() == 0 || mix->size() >= options_.sequences,
            "train: the data makes {} samples, fewer than the {} of one micro batch", mix->size(),
            options_.sequences);
  }
}

LabelledBatch PackedTask::training_batch(std::int64_t index) const {
  require(training_.size() > 0, "train: there is no training data");
  return batch(training_, index);
}

std::int64_t PackedTask::validation_batches() const {
  return validation_.size() == 0 ? 0 : options_.validation_batches;
}

LabelledBatch PackedTask::validation_batch(std::int64_t index) const {
  LabelledBatch b = batch(validation_, index);
  if (!options_.bytes_of_id.empty()) {
    for (const auto label : b.labels) {
      if (label >= 0) b.bytes += options_.bytes_of_id[static_cast<std::size_t>(label)];
    }
  }
  return b;
}

LabelledBatch PackedTask::batch(const SampleMix& mix, std::int64_t index) const {
  const std::int64_t whole = mix.size() / options_.sequences;
  LabelledBatch b;
  b.offsets = {0};
  for (std::int64_t i = 0; i < options_.sequences; ++i) {
    add_sample(mix, index % whole * options_.sequences + i, b);
  }
  return b;
}

void PackedTask::add_sample(const SampleMix& mix, std::int64_t sample, LabelledBatch& b) const {
  std::vector<std::int32_t> x(static_cast<std::size_t>(options_.length) + 1), labels;
  if (mix.labelled()) labels.resize(x.size());
  std::vector<std::int64_t> borders;
  const std::int64_t read = mix.read(sample, options_.vocabulary, x,
                                     options_.reset_at_documents ? &borders : nullptr, labels);
  // What fills up a sample of whole documents is not to be learned.
  if (labels.empty()) {
    labels = x;
    std::fill(labels.begin() + static_cast<std::ptrdiff_t>(read), labels.end(), -100);
  }
  for (auto& label : labels) label = label < 0 ? -100 : label;
  const std::size_t start = b.ids.size();
  b.ids.insert(b.ids.end(), x.begin(), x.end() - 1);
  b.labels.insert(b.labels.end(), labels.begin() + 1, labels.end());
  if (options_.mask_after_end) {
    for (std::size_t t = start; t < b.ids.size(); ++t) {
      if (b.ids[t] == options_.end_id) b.labels[t] = -100;
    }
  }
  for (const std::int64_t border : borders) {
    const std::size_t at = start + static_cast<std::size_t>(border);
    b.labels[at - 1] = -100;
    if (border < options_.length) b.offsets.push_back(static_cast<std::int64_t>(at));
  }
  b.offsets.push_back(static_cast<std::int64_t>(b.ids.size()));
}

}  // namespace metala
