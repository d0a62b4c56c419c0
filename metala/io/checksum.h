// CRC-32 of files (the checksum of gzip and PNG), to notice damage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace metala {

// On all threads; the same for any number of them.
std::uint32_t crc32(std::span<const std::byte>);
std::uint32_t crc32_of_file(const std::string& path);

}  // namespace metala
