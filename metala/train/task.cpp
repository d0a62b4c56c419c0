#include "metala/train/task.h"

namespace metala {

LabelledBatch context_part(const LabelledBatch& whole, std::int64_t rank, std::int64_t ranks,
                           std::int64_t shortest) {
  LabelledBatch part;
  part.offsets = {0};
  if (rank == 0) part.bytes = whole.bytes;
  for (std::size_t b = 0; b + 1 < whole.offsets.size(); ++b) {
    const std::int64_t first = whole.offsets[b];
    const std::int64_t length = whole.offsets[b + 1] - first;
    const bool cut = length >= ranks * shortest;
    const auto boundary = [&](std::int64_t r) {
      return first + (cut ? length * r / ranks : r > 0 ? length : 0);
    };
    const auto append = [&](const std::vector<std::int32_t>& from, std::vector<std::int32_t>& to) {
      to.insert(to.end(), from.begin() + boundary(rank), from.begin() + boundary(rank + 1));
    };
    part.origins.push_back(boundary(rank));
    append(whole.ids, part.ids);
    append(whole.labels, part.labels);
    part.offsets.push_back(static_cast<std::int64_t>(part.ids.size()));
  }
  return part;
}

}  // namespace metala
