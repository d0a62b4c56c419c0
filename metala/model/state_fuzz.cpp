// Any bytes as a state file: refused with an Error, or a state of the right shapes.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "metala/base/error.h"
#include "metala/model/state.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const metala::Config config =
      metala::parse_config(R"({"decoder_embed_dim": 4, "decoder_layers": 1, "vocab_size": 3,
                               "decoder_attention_heads": 1, "glu_dim": 4})",
                           "config.json")
          .config;
  const int file = memfd_create("fuzz", 0);
  if (file < 0 || write(file, data, size) != static_cast<ssize_t>(size)) return 0;
  try {
    const auto state =
        metala::State::load("/proc/self/fd/" + std::to_string(file), config, "a model");
    if (state.layers().size() != 1 || state.bytes() > size) std::abort();
  } catch (const metala::Error&) {
  }
  close(file);
  return 0;
}
