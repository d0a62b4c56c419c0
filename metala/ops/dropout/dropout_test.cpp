#include "metala/ops/dropout/dropout.h"

#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/random_tensor.h"

namespace metala {
namespace {

using namespace harness;

TEST(Dropout, KeepsTheRightShareAndTheMean) {
  const Tensor x = filled({200, 501}, DType::f32, 1);
  const Tensor y = strided(poisoned(x.shape(), DType::f32));
  dropout::forward({0.3, 5, 9}, x, y);
  std::int64_t kept = 0;
  for (const double v : values(y)) {
    ASSERT_TRUE(v == 0 || std::abs(v - 1 / 0.7) < 1e-6) << v;
    kept += v != 0 ? 1 : 0;
  }
  // 100,200 draws: five standard deviations are 0.0073.
  EXPECT_NEAR(static_cast<double>(kept) / 100200, 0.7, 0.0073);
}

TEST(Dropout, TheMaskDependsOnSeedAndStreamOnlyAndTheGradientUsesIt) {
  const Tensor x = random_normal({13, 30}, DType::f32, 1);
  const auto run = [&](dropout::Mask mask) {
    const Tensor y = poisoned(x.shape(), DType::f32);
    dropout::forward(mask, strided(x), y);
    return y;
  };
  EXPECT_TRUE(same_bits(run({0.5, 1, 2}), run({0.5, 1, 2})));
  EXPECT_FALSE(close(run({0.5, 1, 2}), run({0.5, 1, 3}), 1e-3));
  EXPECT_FALSE(close(run({0.5, 1, 2}), run({0.5, 2, 2}), 1e-3));

  const Tensor dx = Tensor::zeros(x.shape());
  dropout::backward({0.5, 1, 2}, x, dx);  // linear: the gradient of x is the output at x
  EXPECT_TRUE(same_bits(dx, run({0.5, 1, 2})));
  const Tensor y64 = Tensor::uninitialized(x.shape(), DType::f64);
  dropout::forward({0.5, 1, 2}, x.cast(DType::f64), y64);
  EXPECT_TRUE(close(run({0.5, 1, 2}), y64, 1e-7));
}

TEST(Dropout, PartsOfAMatrixGetTheirPartsOfItsMask) {
  // Sequences of 5, 0, 7 and 1 rows, of which parts are taken.
  const Tensor x = random_normal({13, 30}, DType::f32, 1);
  const Tensor whole = poisoned(x.shape(), DType::f32);
  dropout::forward({0.5, 1, 2}, x, whole);
  const std::vector<std::int64_t> offsets = {0, 2, 2, 5, 6}, origins = {3, 5, 8, 12};
  const auto take = [&](const Tensor& from) {
    const Tensor part = poisoned({6, 30}, DType::f32);
    part.rows(0, 2).copy_from(from.rows(3, 5));
    part.rows(2, 5).copy_from(from.rows(8, 11));
    part.rows(5, 6).copy_from(from.rows(12, 13));
    return part;
  };
  const Tensor part = poisoned({6, 30}, DType::f32);
  dropout::forward({0.5, 1, 2}, strided(take(x)), part, {offsets, origins});
  EXPECT_TRUE(same_bits(part, take(whole)));
  const Tensor dpart = Tensor::zeros(part.shape());
  dropout::backward({0.5, 1, 2}, take(x), dpart, {offsets, origins});
  EXPECT_TRUE(same_bits(dpart, part));
  const std::vector<std::int64_t> few = {3, 5, 8};
  EXPECT_THROW(dropout::forward({0.5, 1, 2}, take(x), part, {offsets, few}), Error);
}

TEST(Dropout, AProbabilityOfOneIsRefused) {
  EXPECT_THROW(dropout::forward({1.0, 0, 0}, Tensor::zeros({1, 1}), Tensor::zeros({1, 1})), Error);
}

}  // namespace
}  // namespace metala
