// ByteLevel's printable stand-ins for bytes: 21-7E, A1-AC and AE-FF stand for themselves, the other
// 68 bytes are U+0100, U+0101, ... in order (a space is U+0120).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace metala::byte_characters {

// The character for a byte, as UTF-8.
const std::string& of(unsigned char byte);
// Bytes to characters.
std::string spelled(std::string_view bytes);
// Characters to bytes; nothing if one of them stands for no byte.
std::optional<std::string> bytes(std::string_view characters);

}  // namespace metala::byte_characters
