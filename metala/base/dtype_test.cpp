// The two 16-bit formats against what rounding to nearest even means.
#include "metala/base/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace metala {
namespace {

template <class Half>
Half of_bits(unsigned bits) {
  Half half;
  half.bits = static_cast<std::uint16_t>(bits);
  return half;
}

template <class Half>
void expect_every_number_to_come_back() {
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const auto value = static_cast<float>(of_bits<Half>(bits));
    const Half back(value);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(static_cast<float>(back))) << bits;
    } else {
      ASSERT_EQ(back.bits, bits);
    }
  }
}

// Between neighbours: what is nearer to one becomes it, and halfway the even one, of either sign.
// `infinity`: its bits; below it lies the largest number, and between them what rounds to either.
template <class Half>
void expect_the_nearest(unsigned infinity) {
  for (unsigned bits = 0; bits < infinity; ++bits) {
    const auto low = static_cast<double>(static_cast<float>(of_bits<Half>(bits)));
    const double high =
        bits + 1 < infinity
            ? static_cast<double>(static_cast<float>(of_bits<Half>(bits + 1)))
            : low + (low - static_cast<double>(static_cast<float>(of_bits<Half>(bits - 1))));
    const auto middle = static_cast<float>((low + high) / 2);  // exact
    const unsigned even = bits % 2 == 0 ? bits : bits + 1;
    for (const unsigned sign : {0u, 0x8000u}) {
      const auto rounded = [&](float x) { return Half(sign == 0 ? x : -x).bits; };
      ASSERT_EQ(rounded(middle), sign | even) << bits;
      ASSERT_EQ(rounded(std::nextafter(middle, 0.0f)), sign | bits) << bits;
      ASSERT_EQ(rounded(std::nextafter(middle, HUGE_VALF)), sign | (bits + 1)) << bits;
    }
  }
}

TEST(DType, EveryBinary16ComesBackFromFloat) {
  expect_every_number_to_come_back<f16>();
}

TEST(DType, EveryBfloat16ComesBackFromFloat) {
  expect_every_number_to_come_back<bf16>();
}

TEST(DType, FloatsBecomeTheNearestBinary16) {
  expect_the_nearest<f16>(0x7c00);
  EXPECT_EQ(static_cast<float>(f16(65504.0f)), 65504.0f);
  EXPECT_EQ(static_cast<float>(f16(65520.0f)), HUGE_VALF);
  EXPECT_EQ(static_cast<float>(of_bits<f16>(1)), 0x1p-24f);
}

TEST(DType, FloatsBecomeTheNearestBfloat16) {
  expect_the_nearest<bf16>(0x7f80);
}

TEST(DType, BytesOfBlocksCountTheirScales) {
  EXPECT_EQ(bytes_of(DType::q8, 64), 64u + 2 * 2);
  EXPECT_EQ(bytes_of(DType::q4, 128), 64u + 4 * 2);
  EXPECT_EQ(bytes_of(DType::bf16, 3), 6u);
}

}  // namespace
}  // namespace metala
