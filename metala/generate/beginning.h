// What stands before the first text that a model reads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "metala/model/config.h"
#include "metala/text/tokenizer.h"

namespace metala {

// Puts in front of `ids` what the tokenizer's own files put there (`before`), or else `bos` if the
// configuration asks for it or there is nothing to begin with. Never a second time.
inline void put_beginning(std::vector<std::int32_t>& ids, std::vector<std::int32_t> before,
                          const Config& config, std::int32_t bos) {
  if (before.empty() && (config.add_bos_token || ids.empty())) before = {bos};
  const bool there =
      ids.size() >= before.size() && std::equal(before.begin(), before.end(), ids.begin());
  if (!there) ids.insert(ids.begin(), before.begin(), before.end());
}

}  // namespace metala
