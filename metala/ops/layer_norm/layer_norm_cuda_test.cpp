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

TEST_F(LayerNormOnGpu, GradientsAgreeWithTheReference) {
  for (const std::int64_t width : {1, 33, 1024, 5000}) {
    for (const auto& [type, bound] :
         {std::pair{DType::f32, width == 1 ? 1e-4 : 4e-5}, {DType::bf16, 8e-3}}) {
      // A row of one element has no deviation: 1 / sqrt(eps) = 316 magnifies rounding.
      const Shape shape = {300, width};
      const Tensor x = random_normal(shape, DType::f32, 1, 3, 2).cast(type);
      const Tensor dy = random_normal(shape, DType::f32, 4).cast(type);
      const Tensor weight = random_normal({width}, DType::f32, 2);
      // Both sides get the same statistics: a row of one element has no deviation of its own.
      const Tensor mean = Tensor::zeros({300}, DType::f32, gpu_);
      const Tensor inverse_std = Tensor::zeros({300}, DType::f32, gpu_);
      layer_norm::forward(there(x), there(weight), {}, 1e-5, Tensor::zeros(shape, type, gpu_), mean,
                          inverse_std);
      const Tensor dx = there(filled(shape, DType::f32, 0.5), type);
      const Tensor dweight = there(filled({width}, DType::f32, 0.5));
      const Tensor dbias = there(filled({width}, DType::f32, 0.5));
      layer_norm::backward(there(dy), there(x), there(weight), mean, inverse_std, dx, dweight,
                           dbias);
      const Tensor dx64 = filled(shape, DType::f64, 0.5);
      const Tensor dweight64 = filled({width}, DType::f64, 0.5);
      const Tensor dbias64 = filled({width}, DType::f64, 0.5);
      layer_norm::backward(dy.cast(DType::f64), x.cast(DType::f64), weight.cast(DType::f64),
                           mean.to({}).cast(DType::f64), inverse_std.to({}).cast(DType::f64), dx64,
                           dweight64, dbias64);
      EXPECT_TRUE(close(dx.to({}), dx64, bound)) << width;
      EXPECT_TRUE(close(dweight.to({}), dweight64, 1e-5)) << width;
      EXPECT_TRUE(close(dbias.to({}), dbias64, 1e-5)) << width;
    }
  }
}

}  // namespace
}  // namespace metala
