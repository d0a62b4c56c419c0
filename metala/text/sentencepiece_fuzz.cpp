// Any bytes as tokenizer.model: refused with an Error, or a tokenizer that encodes and decodes.
#include <cstddef>
#include <cstdint>
#include <string>

#include "metala/base/error.h"
#include "metala/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const std::string model(reinterpret_cast<const char*>(data), size);
    const auto tokenizer = metala::sentencepiece_tokenizer(model, "fuzz");
    tokenizer->decode(tokenizer->encode("Some text, caf\xC3\xA9 \xFF"));
  } catch (const metala::Error&) {
  }
  return 0;
}
