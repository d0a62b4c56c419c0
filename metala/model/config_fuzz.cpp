// Any bytes as config.json: refused with an Error, or a configuration that can be written back.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "metala/base/error.h"
#include "metala/model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const std::string text(reinterpret_cast<const char*>(data), size);
    const auto parsed = metala::parse_config(text, "config.json");
    const std::string again = metala::config_json(parsed.config, "float32");
    if (metala::config_json(metala::parse_config(again, "again").config, "float32") != again) {
      std::abort();
    }
  } catch (const metala::Error&) {
  }
  return 0;
}
