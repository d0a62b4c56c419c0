#include "metala/ops/layer_norm/layer_norm.h"

#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gradient_check.h"
#include "metala/harness/random_tensor.h"

namespace metala {
namespace {

using namespace harness;
constexpr double eps = 1e-5;

TEST(LayerNorm, WithoutWeightRowsHaveMeanZeroAndVarianceOne) {
  const Tensor x = random_normal({4, 300}, DType::f32, 1, 5.0, 3.0);
  const Tensor y = poisoned(x.shape(), DType::f32);
  layer_norm::forward(x, {}, {}, eps, y);
  for (std::int64_t n = 0; n < 4; ++n) {
    EXPECT_NEAR(dot(y.row(n), filled({300}, DType::f32, 1)), 0, 1e-3);
    EXPECT_NEAR(dot(y.row(n), y.row(n)) / 300, 1, 1e-5);
  }
}

TEST(LayerNorm, FloatAgreesWithDouble) {
  for (const std::int64_t width : {1, 2, 17, 64, 300}) {
    const Tensor x = strided(random_normal({21, width}, DType::f32, 2, 2.0, 1.0));
    const Tensor w = random_normal({width}, DType::f32, 3);
    const Tensor b = random_normal({width}, DType::f32, 4);
    const Tensor dy = random_normal({21, width}, DType::f32, 5);
    const Tensor y = strided(poisoned({21, width}, DType::f32));
    const Tensor m = poisoned({21}, DType::f32), r = poisoned({21}, DType::f32);
    const Tensor dx = Tensor::zeros({21, width}), dw = Tensor::zeros({width}),
                 db = Tensor::zeros({width});
    layer_norm::forward(x, w, b, eps, y, m, r);
    layer_norm::backward(dy, x, w, m, r, dx, dw, db);
    const auto f64 = [](const Tensor& t) { return t.cast(DType::f64); };
    const Tensor y64 = f64(y), m64 = f64(m), r64 = f64(r);
    const Tensor dx64 = Tensor::zeros({21, width}, DType::f64);
    const Tensor dw64 = Tensor::zeros({width}, DType::f64),
                 db64 = Tensor::zeros({width}, DType::f64);
    layer_norm::forward(f64(x), f64(w), f64(b), eps, y64, m64, r64);
    layer_norm::backward(f64(dy), f64(x), f64(w), m64, r64, dx64, dw64, db64);
    // At width 1 output and gradient are zero up to rounding; the others are judged by their size.
    EXPECT_TRUE(close(y, y64, 3e-6)) << width;
    if (width > 2) {
      EXPECT_TRUE(close(dx, dx64, 1e-5)) << width;
    }
    EXPECT_TRUE(close(dw, dw64, 1e-5)) << width;
    EXPECT_TRUE(close(db, db64, 1e-5)) << width;
  }
}

TEST(LayerNorm, GradientsMatchCentralDifferences) {
  const Tensor x = random_normal({3, 7}, DType::f64, 6);
  const Tensor w = random_normal({7}, DType::f64, 7);
  const Tensor b = random_normal({7}, DType::f64, 8);
  const Tensor cotangent = random_normal({3, 7}, DType::f64, 9);
  const Tensor y = Tensor::uninitialized({3, 7}, DType::f64);
  const Tensor m = Tensor::uninitialized({3}, DType::f64);
  const Tensor r = Tensor::uninitialized({3}, DType::f64);
  const auto loss = [&] {
    layer_norm::forward(x, w, b, eps, y, m, r);
    return dot(y, cotangent);
  };
  loss();
  const Tensor dx = Tensor::zeros({3, 7}, DType::f64), dw = Tensor::zeros({7}, DType::f64),
               db = Tensor::zeros({7}, DType::f64);
  layer_norm::backward(cotangent, x, w, m, r, dx, dw, db);
  EXPECT_TRUE(gradient_matches(loss, x, dx, 1e-7));
  EXPECT_TRUE(gradient_matches(loss, w, dw, 1e-7));
  EXPECT_TRUE(gradient_matches(loss, b, db, 1e-7));
}

}  // namespace
}  // namespace metala
