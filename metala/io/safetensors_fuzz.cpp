// Any bytes as a safetensors file: refused with an Error or read, never worse.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "metala/io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const int file = memfd_create("fuzz", 0);
  if (file < 0 || write(file, data, size) != static_cast<ssize_t>(size)) return 0;
  try {
    const auto opened = metala::SafetensorsFile::open("/proc/self/fd/" + std::to_string(file));
    for (const auto& [name, info] : opened.tensors()) {
      try {
        opened.tensor(name).copy();
      } catch (const metala::Error&) {  // a type or shape that tensors do not have
      }
    }
  } catch (const metala::Error&) {
  }
  close(file);
  return 0;
}
