#include "metala/quantization/gptq.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "metala/base/error.h"
#include "metala/base/random.h"

namespace metala {
namespace {

Tensor normal(Shape shape, std::uint64_t seed) {
  const Philox random(seed, 0);
  const Tensor t = Tensor::uninitialized(shape);
  for (std::int64_t i = 0; i < t.count(); ++i) {
    t.data<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return t;
}

// Vectors whose entries depend on each other, as those of a network do: each is a sum of a few
// common directions [8, n] and a little noise.
Tensor correlated(std::int64_t vectors, const Tensor& directions, std::uint64_t seed) {
  const std::int64_t n = directions.size(1);
  const Tensor common = normal({vectors, 8}, seed), x = normal({vectors, n}, seed + 100);
  for (std::int64_t v = 0; v < vectors; ++v) {
    for (std::int64_t i = 0; i < n; ++i) {
      float& value = x.data<float>()[v * n + i];
      value *= 0.3f;
      for (std::int64_t k = 0; k < 8; ++k) {
        value += common.data<float>()[v * 8 + k] * directions.data<float>()[k * n + i];
      }
    }
  }
  return x;
}

Tensor moments_of(const Tensor& x) {
  const std::int64_t n = x.size(1);
  const Tensor m = Tensor::zeros({n, n});
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (std::int64_t v = 0; v < x.size(0); ++v) {
        sum += static_cast<double>(x.data<float>()[v * n + i]) * x.data<float>()[v * n + j];
      }
      m.data<float>()[i * n + j] = static_cast<float>(sum);
    }
  }
  return m;
}

// The sum over x of |(W - Q) x|^2.
double loss(const Tensor& weight, const Tensor& rounded, const Tensor& x) {
  const Tensor q = rounded.cast(DType::f32);
  const std::int64_t n = weight.size(1);
  double total = 0;
  for (std::int64_t v = 0; v < x.size(0); ++v) {
    for (std::int64_t r = 0; r < weight.size(0); ++r) {
      double product = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        product +=
            (static_cast<double>(weight.data<float>()[r * n + i]) - q.data<float>()[r * n + i]) *
            x.data<float>()[v * n + i];
      }
      total += product * product;
    }
  }
  return total;
}

TEST(Gptq, LosesFarLessThanRoundingToTheNearestOnVectorsOfThatKind) {
  const Tensor weight = normal({19, 192}, 1);
  const Tensor directions = normal({8, 192}, 2);
  const Tensor factor = inverse_factor(moments_of(correlated(500, directions, 3)));
  const Tensor others = correlated(100, directions, 4);
  for (const DType type : {DType::q8, DType::q4}) {
    const double plain = loss(weight, weight.cast(type), others);
    EXPECT_LT(loss(weight, gptq(weight, factor, type), others), 0.1 * plain) << name_of(type);
  }
}

TEST(Gptq, RoundsToTheNearestWhereColumnsHaveNothingToDoWithEachOther) {
  const Tensor weight = normal({9, 128}, 1);
  const Tensor identity = Tensor::zeros({128, 128});
  for (std::int64_t i = 0; i < 128; ++i) identity.data<float>()[i * 129] = 3;
  for (const DType type : {DType::q8, DType::q4}) {
    const Tensor rounded = gptq(weight, inverse_factor(identity), type), plain = weight.cast(type);
    ASSERT_EQ(rounded.bytes(), plain.bytes());
    EXPECT_EQ(std::memcmp(rounded.raw(), plain.raw(), plain.bytes()), 0) << name_of(type);
  }
}

TEST(Gptq, TheFactorIsThatOfTheInverse) {
  const std::int64_t n = 64;
  const Tensor moments = moments_of(correlated(40, normal({8, n}, 1), 2));  // of rank 40 alone
  const Tensor u = inverse_factor(moments);
  double mean = 0;
  for (std::int64_t i = 0; i < n; ++i) mean += moments.data<float>()[i * n + i] / 64.0;
  // U (M + damping) U^T is the identity.
  const auto at = [](const Tensor& t, std::int64_t i, std::int64_t j) {
    return static_cast<double>(t.data<float>()[i * t.size(1) + j]);
  };
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (std::int64_t k = i; k < n; ++k) {
        for (std::int64_t l = j; l < n; ++l) {
          sum += at(u, i, k) * (at(moments, k, l) + (k == l ? 0.01 * mean : 0)) * at(u, j, l);
        }
      }
      EXPECT_LE(std::abs(sum - (i == j ? 1 : 0)), 1e-4) << i << ' ' << j;
      EXPECT_TRUE(j >= i || at(u, i, j) == 0);
    }
  }
}

TEST(Gptq, VectorsThatSayNothingOfSomeColumnsOrOfAny) {
  const Tensor weight = normal({3, 64}, 1);
  const Tensor x = normal({100, 64}, 2);
  for (std::int64_t v = 0; v < 100; ++v) x.data<float>()[v * 64 + 5] = 0;
  const Tensor rounded = gptq(weight, inverse_factor(moments_of(x)), DType::q4).cast(DType::f32);
  for (std::int64_t i = 0; i < rounded.count(); ++i) {
    EXPECT_LT(std::abs(rounded.data<float>()[i] - weight.data<float>()[i]), 2) << i;
  }
  const Tensor blind = gptq(weight, inverse_factor(Tensor::zeros({64, 64})), DType::q4);
  EXPECT_EQ(std::memcmp(blind.raw(), weight.cast(DType::q4).raw(), blind.bytes()), 0);
}

TEST(Gptq, WhatIsNotFiniteOrDoesNotFitIsRefused) {
  const Tensor weight = normal({3, 64}, 1), factor = inverse_factor(Tensor::zeros({64, 64}));
  const Tensor broken = weight.copy();
  broken.data<float>()[70] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(gptq(broken, factor, DType::q4), Error);
  broken.data<float>()[70] = 1e9f;  // a scale beyond f16
  EXPECT_THROW(gptq(broken, factor, DType::q4), Error);
  EXPECT_THROW(gptq(weight, factor, DType::bf16), Error);
  EXPECT_THROW(gptq(normal({3, 32}, 1), inverse_factor(Tensor::zeros({32, 32})), DType::q4), Error);
  const Tensor moments = Tensor::zeros({64, 64});
  moments.data<float>()[0] = std::numeric_limits<float>::infinity();
  EXPECT_THROW(inverse_factor(moments), Error);
  moments.data<float>()[0] = 0;
  moments.data<float>()[1] = moments.data<float>()[64] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(inverse_factor(moments), Error);
}

}  // namespace
}  // namespace metala
