#include "metala/base/ragged.h"

#include "metala/base/error.h"

namespace metala {

void check_offsets(std::string_view op, Offsets offsets, std::int64_t tokens) {
  require(!offsets.empty() && offsets.front() == 0 && offsets.back() == tokens,
          "{}: offsets must run from 0 to {}, the number of tokens", op, tokens);
  for (std::size_t b = 1; b < offsets.size(); ++b) {
    require(offsets[b - 1] <= offsets[b], "{}: offsets fall from {} to {} at sequence {}", op,
            offsets[b - 1], offsets[b], b - 1);
  }
}

}  // namespace metala
