// Windows: token sequences of bounded length from texts, to compare or calibrate a model on.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "metala/text/tokenizer.h"

namespace metala::cli {

struct Sequences {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> offsets = {0};  // as in base/ragged.h

  void add(std::span<const std::int32_t> sequence) {
    ids.insert(ids.end(), sequence.begin(), sequence.end());
    offsets.push_back(static_cast<std::int64_t>(ids.size()));
  }
};

// The first `wanted` tokens of the texts (data/documents.h), or a few more, in windows of at most
// 512.
Sequences first_windows(const std::vector<std::string>& texts, std::int64_t wanted,
                        const Tokenizer&);

// As many tokens in windows from all over the texts, the same on every call: neighbours are about
// the same things, and what is to serve for every text must not be fitted to a few.
Sequences scattered_windows(const std::vector<std::string>& texts, std::int64_t wanted,
                            const Tokenizer&);

}  // namespace metala::cli
