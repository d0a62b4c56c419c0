#include "metala/base/quantized.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "metala/base/error.h"
#include "metala/base/random.h"

namespace metala {
namespace {

std::vector<float> normal(std::int64_t n, std::uint64_t seed) {
  const Philox random(seed, 0);
  std::vector<float> x(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(random.normal(i));
  return x;
}

std::vector<float> there_and_back(const std::vector<float>& x, DType type) {
  const auto n = static_cast<std::int64_t>(x.size());
  std::vector<std::byte> row(bytes_of(type, x.size()));
  std::vector<float> back(x.size());
  quantized::quantize_row(x.data(), n, type, row.data());
  quantized::dequantize_row(row.data(), n, type, back.data());
  return back;
}

TEST(Quantized, EightBitsAreWithinHalfAStepOfTheGroupsLargest) {
  const auto x = normal(192, 1);
  const auto back = there_and_back(x, DType::q8);
  for (std::size_t g = 0; g < x.size() / 32; ++g) {
    float largest = 0;
    for (std::size_t i = 32 * g; i < 32 * g + 32; ++i) {
      largest = std::max(largest, std::fabs(x[i]));
    }
    for (std::size_t i = 32 * g; i < 32 * g + 32; ++i) {
      EXPECT_LE(std::fabs(back[i] - x[i]), largest * (0.5 / 127 + 1e-3));  // and the scale's own
    }
  }
}

TEST(Quantized, FourBitsOfNormalWeightsLoseTwoTenthsOfADeviationOfTheGroupAtMost) {
  const auto x = normal(64 * 100, 2);
  const auto back = there_and_back(x, DType::q4);
  double error = 0;
  for (std::size_t i = 0; i < x.size(); ++i) error += std::pow(back[i] - x[i], 2);
  EXPECT_LT(std::sqrt(error / static_cast<double>(x.size())), 0.085);
}

TEST(Quantized, WhatIsRepresentableComesBackExactly) {
  std::vector<float> x(128);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = 0.25f * static_cast<float>(static_cast<int>(i * 7 % 16) - 8);
  }
  EXPECT_EQ(there_and_back(x, DType::q4), x);
  const std::vector<float> zero(64, 0.0f);
  EXPECT_EQ(there_and_back(zero, DType::q4), zero);
  EXPECT_EQ(there_and_back(zero, DType::q8), zero);
}

TEST(Quantized, WeightsBeyondTheScaleAndOddRowsAreRefused) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), HUGE_VALF, 1e9f}) {
    for (const auto type : {DType::q8, DType::q4}) {
      auto x = normal(64, 3);
      x[40] = bad;
      EXPECT_THROW(there_and_back(x, type), Error) << bad << " " << name_of(type);
    }
  }
  EXPECT_THROW(there_and_back(normal(32, 4), DType::q4), Error);
}

}  // namespace
}  // namespace metala
