// Any bytes as a .jsonl file of documents: refused with an Error or read, never worse.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "metala/base/error.h"
#include "metala/data/documents.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string path =
      (std::filesystem::temp_directory_path() / ("fuzz-" + std::to_string(getpid()) + ".jsonl"))
          .string();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  try {
    metala::read_documents({path}, {}, [](const metala::Document& d) {
      if (d.ids.size() != d.labels.size()) std::abort();
    });
  } catch (const metala::Error&) {
  }
  std::filesystem::remove(path);
  return 0;
}
