// Any bytes as tiktoken ranks, and after a zero byte as the description beside them: refused with
// an Error, or a tokenizer that gives every text back. Ranks are tried as they are and after those
// of the 256 bytes, without which all would be refused alike.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>

#include "metala/base/error.h"
#include "metala/text/tiktoken.h"

namespace {

std::string ranks_of_bytes() {
  const char* const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string lines;
  for (int byte = 0; byte < 256; ++byte) {
    lines += {digits[byte >> 2], digits[(byte & 3) << 4], '=', '=', ' '};
    lines += std::to_string(byte) + "\n";
  }
  return lines;
}

void try_ranks(const std::string& ranks, const std::optional<std::string>& description) {
  try {
    const auto tokenizer = metala::tiktoken_tokenizer(ranks, description, {}, "fuzz");
    const std::string text = "Some  text's, caf\xC3\xA9 <s>\n 12 \xFF!";
    const auto ids = tokenizer->encode(text);
    // A pattern of its own may leave out parts of the text.
    if (!description && tokenizer->decode(ids) != text) std::abort();
    tokenizer->encode(text, {.special = true});
  } catch (const metala::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string all(reinterpret_cast<const char*>(data), size);
  const auto zero = all.find('\0');
  const std::string ranks = all.substr(0, zero);
  std::optional<std::string> description;
  if (zero != std::string::npos) description = all.substr(zero + 1);
  try_ranks(ranks, description);
  try_ranks(ranks_of_bytes() + ranks, description);
  return 0;
}
