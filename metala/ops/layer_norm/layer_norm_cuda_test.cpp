#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/layer_norm/layer_norm.h"

namespace metala {
namespace {

using namespace harness;

class LayerNormOnGpu : public GpuTest {};

TEST_F(LayerNormOnGpu, AgreesWithTheReference) {
  for (const std::int64_t width : {1, 33, 256, 1024, 5000}) {
    for (const auto& [type, bound] : {std::pair{DType::f32, 4e-6}, {DType::bf16, 8e-3}}) {
      const Tensor x = random_normal({4, width}, DType::f32, 1, 3, 2).cast(type);
      const Tensor weight = random_normal({width}, DType::f32, 2);
      const Tensor bias = random_normal({width}, DType::f32, 3);
      const Tensor y = Tensor::zeros({4, width}, type, gpu_);
      const Tensor mean = Tensor::zeros({4}, DType::f32, gpu_);
      const Tensor inverse_std = Tensor::zeros({4}, DType::f32, gpu_);
      layer_norm::forward(there(x), there(weight), there(bias), 1e-5, y, mean, inverse_std);
      const Tensor want = Tensor::zeros({4, width}, DType::f64);
      layer_norm::forward(x.cast(DType::f64), weight.cast(DType::f64), bias.cast(DType::f64), 1e-5,
                          want);
      EXPECT_TRUE(close(y.to({}), want, bound)) << width;
    }
  }
}

}  // namespace
}  // namespace metala
