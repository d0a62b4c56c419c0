// Any bytes as a zip file: refused with an Error, or every entry lies within the file, apart from
// the others.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "metala/base/error.h"
#include "metala/io/zip_archive.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const int file = memfd_create("fuzz", 0);
  if (file < 0 || write(file, data, size) != static_cast<ssize_t>(size)) return 0;
  try {
    const auto archive = metala::ZipArchive::open("/proc/self/fd/" + std::to_string(file));
    const auto whole = archive.file().bytes();
    std::size_t total = 0;
    for (const auto& [name, bytes] : archive.entries()) {
      total += bytes.size();
      if (bytes.data() < whole.data() || bytes.size() > size ||
          bytes.data() + bytes.size() > whole.data() + size) {
        std::abort();
      }
    }
    if (total > size) std::abort();
  } catch (const metala::Error&) {
  }
  close(file);
  return 0;
}
