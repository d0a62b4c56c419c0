// Any bytes as a pickle in a file of torch.save: refused with an Error or read, never worse.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <sstream>
#include <string>

#include "metala/base/error.h"
#include "metala/io/pickle.h"
#include "metala/io/torch_file.h"
#include "metala/io/zip_writer.h"

namespace {

void read_file_of(const std::string& bytes) {
  const int file = memfd_create("fuzz", 0);
  if (file < 0 || write(file, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    return;
  }
  try {
    const auto opened = metala::TorchFile::open("/proc/self/fd/" + std::to_string(file));
    for (const auto& name : opened.names()) {
      try {
        opened.tensor(name).copy();
      } catch (const metala::Error&) {  // one that cannot be represented or does not fit
      }
    }
  } catch (const metala::Error&) {
  }
  close(file);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    metala::ByteReader reader(std::as_bytes(std::span(text)), "fuzz");
    while (reader.remaining() > 0) metala::Pickle::read(reader);
  } catch (const metala::Error&) {
  }
  read_file_of(text);  // a legacy stream, when it starts as one
  std::ostringstream zip;
  metala::ZipWriter writer(zip);
  writer.add("f/data.pkl", text);
  writer.add("f/data/0", std::string(256, '\1'));
  writer.finish();
  read_file_of(zip.str());
  return 0;
}
