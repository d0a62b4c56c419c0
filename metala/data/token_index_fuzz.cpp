// Any bytes as an .idx: refused with an Error, or an index that stays within its .bin.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "metala/base/error.h"
#include "metala/data/token_index.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  for (const std::uint64_t bin_bytes : {0, 10, 20}) {
    try {
      const metala::TokenIndex index(bytes, nullptr, "fuzz", bin_bytes);
      for (std::int64_t i = 0; i < index.sequences(); ++i) {
        const auto end = index.byte_offset(i) + index.length(i) * metala::size_of(index.type());
        if (index.byte_offset(i) < 0 || static_cast<std::uint64_t>(end) > bin_bytes) std::abort();
      }
      for (std::int64_t d = 0; d <= index.documents(); ++d) {
        if (index.first_sequence(d) > index.sequences()) std::abort();
      }
    } catch (const metala::Error&) {
    }
  }
  return 0;
}
