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

TEST(Dropout, AProbabilityOfOneIsRefused) {
  EXPECT_THROW(dropout::forward({1.0, 0, 0}, Tensor::zeros({1, 1}), Tensor::zeros({1, 1})), Error);
}

}  // namespace
}  // namespace metala
