// Any bytes as tokenizer.json: refused with an Error, or a tokenizer that encodes and decodes.
#include <cstddef>
#include <cstdint>
#include <string>

#include "metala/base/error.h"
#include "metala/text/tokenizer_json.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const std::string content(reinterpret_cast<const char*>(data), size);
    const auto tokenizer = metala::tokenizer_json(content, {}, "fuzz");
    const auto ids = tokenizer->encode("Some  text's, caf\xC3\xA9 <s>\n 12 \xFF\xE2\x96\x81!",
                                       {.special = true});
    tokenizer->decode(ids);
    tokenizer->text(ids);
    for (std::int32_t id = -1; id < 4; ++id) tokenizer->first_bytes(id);
  } catch (const metala::Error&) {
  }
  return 0;
}
