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
        linear::forward(there(x), there(weight), there(bias), y, linear::Write::accumulate);
        const Tensor want = start.cast(DType::f64);
        linear::forward(x.cast(DType::f64), weight.cast(DType::f64), bias.cast(DType::f64), want,
                        linear::Write::accumulate);
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

class EmbeddingOnGpu : public GpuTest {};

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
