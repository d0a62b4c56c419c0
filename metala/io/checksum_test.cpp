// Checksums are CRC-32, whatever the number of pieces they are made from.
#include "metala/io/checksum.h"

#include <gtest/gtest.h>

#include <string>

#include "metala/harness/temporary_folder.h"

namespace metala {
namespace {

std::uint32_t of(const std::string& text) {
  return crc32(std::as_bytes(std::span(text)));
}

TEST(Checksum, IsCrc32) {
  EXPECT_EQ(of("123456789"), 0xCBF43926u);
  EXPECT_EQ(of(""), 0u);
  EXPECT_EQ(of(std::string(32, '\0')), 0x190a55adu);
}

TEST(Checksum, OfManyPiecesIsThatOfTheWhole) {
  std::string text(std::size_t{40} << 20, 'x');
  for (std::size_t i = 0; i < text.size(); i += 4099) text[i] = static_cast<char>(i);
  // One piece after the other, the plain way.
  std::uint32_t plain = 0xffffffffu;
  for (const char c : text) {
    plain ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) plain = (plain >> 1) ^ ((plain & 1) != 0 ? 0xEDB88320u : 0);
  }
  EXPECT_EQ(of(text), ~plain);
  const harness::TemporaryFolder folder;
  folder.spill("f", "123456789");
  EXPECT_EQ(crc32_of_file(folder / "f"), 0xCBF43926u);
}

}  // namespace
}  // namespace metala
