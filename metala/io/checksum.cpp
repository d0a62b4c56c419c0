#include "metala/io/checksum.h"

#include <zlib.h>

#include <algorithm>
#include <vector>

#include "metala/base/threads.h"
#include "metala/io/file.h"

namespace metala {

std::uint32_t crc32(std::span<const std::byte> bytes) {
  constexpr std::int64_t piece = std::int64_t{16} << 20;
  const auto size = static_cast<std::int64_t>(bytes.size());
  std::vector<uLong> sums(static_cast<std::size_t>((size + piece - 1) / piece));
  parallel_chunks(size, piece, [&](std::int64_t begin, std::int64_t end) {
    const auto* from = reinterpret_cast<const Bytef*>(bytes.data() + begin);
    sums[static_cast<std::size_t>(begin / piece)] =
        ::crc32(::crc32(0, nullptr, 0), from, static_cast<uInt>(end - begin));
  });
  uLong all = ::crc32(0, nullptr, 0);
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const std::int64_t length = std::min(piece, size - static_cast<std::int64_t>(i) * piece);
    all = crc32_combine(all, sums[i], static_cast<z_off_t>(length));
  }
  return static_cast<std::uint32_t>(all);
}

std::uint32_t crc32_of_file(const std::string& path) {
  return crc32(MappedFile::open(path).bytes());
}

}  // namespace metala
