#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/embedding/embedding.h"
#include "metala/ops/linear/linear.h"

namespace metala {
namespace {

using namespace harness;

class LinearOnGpu : public GpuTest {};

TEST_F(LinearOnGpu, AgreesWithTheReferenceForManyShapesAndTypes) {
  for (const std::int64_t rows : {1, 2, 7, 64, 200}) {
    for (const auto& [in, out] :
         {std::pair<std::int64_t, std::int64_t>{8, 8}, {64, 24}, {100, 33}, {1024, 512}}) {
      for (const auto& [type, bound] : {std::pair{DType::f32, 3e-6}, {DType::bf16, 8e-3}}) {
        const Tensor x = random_normal({rows, in}, DType::f32, 1).cast(type);
        const Tensor weight = random_normal({out, in}, DType::f32, 2).cast(type);
        const Tensor bias = random_normal({out}, DType::f32, 3);
        const Tensor start = random_normal({rows, out}, DType::f32, 4).cast(type);
        const Tensor y = there(start);
        linear::forward(there(x), there(weight), there(bias), y, Write::accumulate);
        const Tensor want = start.cast(DType::f64);
        linear::forward(x.cast(DType::f64), weight.cast(DType::f64), bias.cast(DType::f64), want,
                        Write::accumulate);
        EXPECT_TRUE(close(y.to({}), want, bound)) << rows << " rows, " << in << " to " << out;
      }
    }
  }
}

TEST_F(LinearOnGpu, ColumnsOfWiderMatricesAreReadAndWrittenInPlace) {
  const Tensor x = random_normal({9, 64}, DType::f32, 1);
  const Tensor weight = random_normal({40, 32}, DType::f32, 2);
  const Tensor wide = Tensor::zeros({9, 100}, DType::f32, gpu_);
  linear::forward(there(x).slice(1, 16, 48), there(weight), {}, wide.slice(1, 20, 60));
  const Tensor want = Tensor::zeros({9, 100});
  linear::forward(x.slice(1, 16, 48), weight, {}, want.slice(1, 20, 60));
  EXPECT_TRUE(close(wide.to({}), want, 3e-6));
}

TEST_F(LinearOnGpu, GradientsAgreeWithTheReference) {
  for (const std::int64_t rows : {1, 7, 200}) {
    for (const auto& [in, out] : {std::pair<std::int64_t, std::int64_t>{8, 8}, {100, 33}}) {
      for (const auto& [type, bound] : {std::pair{DType::f32, 4e-6}, {DType::bf16, 8e-3}}) {
        const Tensor x = random_normal({rows, in}, DType::f32, 1).cast(type);
        const Tensor weight = random_normal({out, in}, DType::f32, 2).cast(type);
        const Tensor dy = random_normal({rows, out}, DType::f32, 3).cast(type);
        const Tensor dx = there(filled({rows, in}, DType::f32, 0.5), type);
        const Tensor dweight = there(filled({out, in}, DType::f32, 0.5));
        const Tensor dbias = there(filled({out}, DType::f32, 0.5));
        linear::backward_input(there(dy), there(weight), dx);
        linear::backward_weight(there(dy), there(x), dweight, dbias);
        const Tensor dx64 = filled({rows, in}, DType::f64, 0.5);
        const Tensor dweight64 = filled({out, in}, DType::f64, 0.5);
        const Tensor dbias64 = filled({out}, DType::f64, 0.5);
        linear::backward_input(dy.cast(DType::f64), weight.cast(DType::f64), dx64);
        linear::backward_weight(dy.cast(DType::f64), x.cast(DType::f64), dweight64, dbias64);
        EXPECT_TRUE(close(dx.to({}), dx64, bound)) << rows << " rows, " << in << " to " << out;
        EXPECT_TRUE(close(dweight.to({}), dweight64, 4e-6)) << rows << " rows, to " << out;
        EXPECT_TRUE(close(dbias.to({}), dbias64, 4e-6)) << rows << " rows, to " << out;
      }
    }
  }
}

TEST_F(LinearOnGpu, OverwritingNeedsNoZerosAndAnAddendIsAdded) {
  const Tensor x = there(random_normal({70, 40}, DType::f32, 1));
  const Tensor weight = there(random_normal({24, 40}, DType::f32, 2));
  const Tensor dy = there(random_normal({70, 24}, DType::f32, 3));
  const Tensor dx = there(poisoned({70, 40}, DType::f32));
  linear::backward_input(dy, weight, dx, Write::overwrite);
  const Tensor sum = Tensor::zeros({70, 40}, DType::f32, gpu_);
  linear::backward_input(dy, weight, sum);
  EXPECT_TRUE(close(dx.to({}), sum.to({}), 1e-6));

  // Rows as wide as y's, and rows that lie apart.
  const Tensor wide = there(random_normal({70, 30}, DType::f32, 4));
  for (const Tensor& addend : {dy, wide.slice(1, 3, 27)}) {
    const Tensor y = there(poisoned({70, 24}, DType::f32));
    linear::forward_onto(addend, x, weight, {}, y);
    const Tensor want = addend.copy();
    linear::forward(x, weight, {}, want, Write::accumulate);
    EXPECT_TRUE(close(y.to({}), want.to({}), 1e-6));
  }
}

class EmbeddingOnGpu : public GpuTest {};

TEST_F(EmbeddingOnGpu, GradientsOfRepeatedIdsAddUpAndAFrozenIdHasNone) {
  std::vector<std::int32_t> ids;
  for (std::int32_t n = 0; n < 1000; ++n) ids.push_back(n % 7 == 0 ? 4 : n * n % 11);
  for (const auto type : {DType::f32, DType::bf16}) {
    const Tensor dy = random_normal({1000, 70}, DType::f32, 2).cast(type);
    const Tensor got = there(filled({11, 70}, DType::f32, 0.5));
    embedding::backward(mirrored(ids), there(dy), 2, got, 3);
    const Tensor want = filled({11, 70}, DType::f64, 0.5);
    embedding::backward(ids, dy.cast(DType::f64), 2, want, 3);
    EXPECT_TRUE(close(got.to({}), want, 2e-6));
  }
}

TEST_F(EmbeddingOnGpu, RowsAreLookedUpAndScaled) {
  const Tensor table = random_normal({11, 70}, DType::f32, 1);
  const std::vector<std::int32_t> ids = {3, 0, 10, 3};
  for (const auto type : {DType::f32, DType::bf16}) {
    const Tensor y = Tensor::zeros({4, 70}, type, gpu_);
    embedding::forward(mirrored(ids), there(table, type), 2, y);
    const Tensor want = Tensor::zeros({4, 70}, DType::f64);
    embedding::forward(ids, table.cast(type).cast(DType::f64), 2, want);
    EXPECT_TRUE(close(y.to({}), want, 0));
  }
}

}  // namespace
}  // namespace metala
