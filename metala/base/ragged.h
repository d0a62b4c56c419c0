// A ragged batch: sequences of different lengths laid end to end, without padding.
//
// Activations of B sequences with N tokens in all are one [N, d] matrix; sequence b owns the rows
// offsets[b] .. offsets[b+1]. Empty sequences are legal.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "metala/base/error.h"

namespace metala {

using Offsets = std::span<const std::int64_t>;  // B + 1 entries, the first 0, non-decreasing

inline std::int64_t batch_of(Offsets offsets) {
  return static_cast<std::int64_t>(offsets.size()) - 1;
}

inline void check_offsets(std::string_view op, Offsets offsets, std::int64_t tokens) {
  require(!offsets.empty() && offsets.front() == 0 && offsets.back() == tokens,
          "{}: offsets must run from 0 to {}, the number of tokens", op, tokens);
  for (std::size_t b = 1; b < offsets.size(); ++b) {
    require(offsets[b - 1] <= offsets[b], "{}: offsets fall from {} to {} at sequence {}", op,
            offsets[b - 1], offsets[b], b - 1);
  }
}

}  // namespace metala
