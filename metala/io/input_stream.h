// InputStream: the bytes of a file or of standard input, decompressed on the way.
//
// gzip (RFC 1952, also of several members) and Zstandard (RFC 8878, also of several frames) are
// recognised by their first bytes, whatever the name. Throws Error with the path: cannot open, read
// error, damaged or cut short.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace metala {

class InputStream {
 public:
  static constexpr const char* standard_input = "-";

  static std::unique_ptr<InputStream> open(const std::string& path);
  virtual ~InputStream() = default;

  // Fills `into` with up to `most` bytes; fewer only at the end, then 0.
  virtual std::size_t read(char* into, std::size_t most) = 0;
  // Bytes of the file itself read so far, for showing progress.
  virtual std::uint64_t consumed() const = 0;
};

}  // namespace metala
