#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/rms_norm/rms_norm.h"

namespace metala {
namespace {

using namespace harness;

class RmsNormOnGpu : public GpuTest {};

TEST_F(RmsNormOnGpu, AgreesWithTheReferenceForwardsAndBackwards) {
  for (const std::int64_t width : {1, 7, 32, 33, 255, 256, 257, 1024, 5000}) {
    for (const auto& [type, bound] : {std::pair{DType::f32, 2e-6}, {DType::bf16, 8e-3}}) {
      const Tensor x = random_normal({5, width}, DType::f32, 1, 3).cast(type);
      const Tensor dy = random_normal({5, width}, DType::f32, 2).cast(type);
      const Tensor start = random_normal({5, width}, DType::f32, 3).cast(type);
      const Tensor y = Tensor::zeros({5, width}, type, gpu_);
      const Tensor r = Tensor::zeros({5}, DType::f32, gpu_);
      const Tensor dx = there(start);
      rms_norm::forward(there(x), 1e-6, y, r);
      rms_norm::backward(there(dy), y, r, dx);
      const Tensor y64 = Tensor::zeros({5, width}, DType::f64);
      const Tensor r64 = Tensor::zeros({5}, DType::f64);
      const Tensor dx64 = start.cast(DType::f64);
      rms_norm::forward(x.cast(DType::f64), 1e-6, y64, r64);
      rms_norm::backward(dy.cast(DType::f64), y64, r64, dx64);
      EXPECT_TRUE(close(y.to({}), y64, bound)) << width;
      EXPECT_TRUE(close(r.to({}), r64, 2e-6)) << width;
      EXPECT_TRUE(close(dx.to({}), dx64, bound)) << width;
    }
  }
}

TEST_F(RmsNormOnGpu, OverwritingNeedsNoZeros) {
  const Shape shape = {5, 264};
  const auto random = [&](std::uint64_t seed) {
    return there(random_normal(shape, DType::f32, seed), DType::bf16);
  };
  const Tensor dy = random(1), y = random(2);
  const Tensor r = there(filled({5}, DType::f32, 0.5));
  const Tensor dx = there(poisoned(shape, DType::f32), DType::bf16);
  rms_norm::backward(dy, y, r, dx, Write::overwrite);
  const Tensor sum = Tensor::zeros(shape, DType::bf16, gpu_);
  rms_norm::backward(dy, y, r, sum);
  EXPECT_TRUE(same_bits(dx.to({}), sum.to({})));
}

TEST_F(RmsNormOnGpu, ANanStaysInItsRow) {
  const Tensor x = random_normal({3, 40}, DType::f32, 1);
  x.data<float>()[45] = std::numeric_limits<float>::quiet_NaN();
  const Tensor y = Tensor::zeros({3, 40}, DType::f32, gpu_);
  rms_norm::forward(there(x), 1e-6, y);
  const auto got = values(y.to({}));
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(std::isnan(got[i]), i / 40 == 1) << i;
}

}  // namespace
}  // namespace metala
