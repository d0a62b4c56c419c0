// Any bytes as a .npy file: refused with an Error, or as many numbers as the file has room for.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "metala/base/error.h"
#include "metala/io/npy.h"

namespace {

// Reads every number.
template <class T>
void walk(const metala::NpyFile& file, std::size_t size) {
  const auto numbers = file.numbers<T>();
  if (numbers.size_bytes() > size) std::abort();
  T all = 0;
  for (const T n : numbers) all |= n;
  volatile T seen = all;
  static_cast<void>(seen);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const int memory = memfd_create("fuzz", 0);
  if (memory < 0 || write(memory, data, size) != static_cast<ssize_t>(size)) return 0;
  try {
    const auto file = metala::NpyFile::open("/proc/self/fd/" + std::to_string(memory));
    switch (file.descr().back()) {
      case '2':
        walk<std::uint16_t>(file, size);
        break;
      case '4':
        walk<std::uint32_t>(file, size);
        break;
      default:
        walk<std::uint64_t>(file, size);
    }
  } catch (const metala::Error&) {
  }
  close(memory);
  return 0;
}
