#include "metala/ops/rms_norm/rms_norm.h"

#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gradient_check.h"
#include "metala/harness/random_tensor.h"
#include "metala/harness/refusal.h"

namespace metala {
namespace {

using namespace harness;
constexpr double eps = 1e-6;

// Widths at the seams of every vector length.
const std::int64_t widths[] = {1, 2, 7, 8, 15, 16, 17, 63, 64, 65, 300, 1024};

TEST(RmsNorm, OutputRowsHaveUnitMeanSquare) {
  for (const auto width : widths) {
    const Tensor x = random_normal({5, width}, DType::f32, 1, 3.0);
    const Tensor y = Tensor::uninitialized(x.shape());
    rms_norm::forward(x, eps, y);
    for (std::int64_t n = 0; n < 5; ++n) {
      EXPECT_NEAR(dot(y.row(n), y.row(n)) / static_cast<double>(width), 1.0, 1e-5) << width;
    }
  }
}

TEST(RmsNorm, ScalingAnInputRowLeavesItsOutputAlone) {
  const Tensor x = random_normal({3, 65}, DType::f64, 2);
  const Tensor scaled = x.copy();
  for (std::int64_t i = 0; i < x.count(); ++i) scaled.data<double>()[i] *= 1024;
  const Tensor y = Tensor::uninitialized(x.shape(), DType::f64);
  const Tensor z = Tensor::uninitialized(x.shape(), DType::f64);
  rms_norm::forward(x, 0, y);
  rms_norm::forward(scaled, 0, z);
  EXPECT_TRUE(close(z, y, 1e-14));
}

TEST(RmsNorm, FastFormAgreesWithTheReferenceInDouble) {
  for (const auto width : widths) {
    const Tensor x = random_normal({37, width}, DType::f32, 3, 2.0);
    const Tensor x64 = x.cast(DType::f64);
    const Tensor y = strided(poisoned(x.shape(), DType::f32));
    const Tensor r = poisoned({37}, DType::f32);
    rms_norm::forward(strided(x), eps, y, r);
    const Tensor want = Tensor::uninitialized(x.shape(), DType::f64);
    const Tensor want_r = Tensor::uninitialized({37}, DType::f64);
    rms_norm::forward(x64, eps, want, want_r);
    EXPECT_TRUE(close(y, want, 1e-6)) << width;
    EXPECT_TRUE(close(r, want_r, 1e-6)) << width;

    const Tensor dy = random_normal(x.shape(), DType::f32, 4);
    const Tensor dx = strided(random_normal(x.shape(), DType::f32, 5));
    const Tensor want_dx = dx.cast(DType::f64);
    rms_norm::backward(strided(dy), y, r, dx);
    rms_norm::backward(dy.cast(DType::f64), want, want_r, want_dx);
    EXPECT_TRUE(close(dx, want_dx, 3e-6)) << width;
  }
}

TEST(RmsNorm, GradientMatchesCentralDifferences) {
  const Tensor x = random_normal({4, 9}, DType::f64, 6);
  const Tensor cotangent = random_normal({4, 9}, DType::f64, 7);
  const Tensor y = Tensor::uninitialized(x.shape(), DType::f64);
  const Tensor r = Tensor::uninitialized({4}, DType::f64);
  const auto loss = [&] {
    rms_norm::forward(x, eps, y, r);
    return dot(y, cotangent);
  };
  loss();
  const Tensor dx = Tensor::zeros(x.shape(), DType::f64);
  rms_norm::backward(cotangent, y, r, dx);
  EXPECT_TRUE(gradient_matches(loss, x, dx, 1e-8));
}

TEST(RmsNorm, RefusesShapesThatDoNotFitByNamingTheArgument) {
  const Tensor x = Tensor::zeros({3, 4});
  EXPECT_EQ(harness::refusal_of([&] {
              rms_norm::forward(x, eps, Tensor::zeros({3, 5}));
            }),
            "rms_norm: y is f32 [3, 5]; wanted f32 [3, 4]");
  EXPECT_THROW(rms_norm::forward(x, eps, Tensor::zeros({3, 4}, DType::f64)), Error);
}

}  // namespace
}  // namespace metala
