#include "metala/ops/embedding/embedding.h"

#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gradient_check.h"
#include "metala/harness/random_tensor.h"
#include "metala/harness/refusal.h"

namespace metala {
namespace {

using namespace harness;

const std::vector<std::int32_t> ids = {3, 0, 3, 6, 3};

TEST(Embedding, OutputRowsAreTheTablesRowsScaledForEveryType) {
  for (const auto type : {DType::f32, DType::bf16, DType::f16, DType::f64}) {
    const Tensor table = strided(random_normal({7, 19}, type, 1));
    const DType out = type == DType::f64 ? DType::f64 : DType::f32;
    const Tensor y = strided(poisoned({5, 19}, out));
    embedding::forward(ids, table, 2, y);
    const Tensor wide = table.cast(DType::f64);
    const Tensor got = y.cast(DType::f64);
    for (std::int64_t n = 0; n < 5; ++n) {
      for (std::int64_t i = 0; i < 19; ++i) {
        EXPECT_EQ(got.data<double>()[n * 19 + i],
                  2 * wide.data<double>()[ids[static_cast<std::size_t>(n)] * 19 + i]);
      }
    }
  }
}

TEST(Embedding, RepeatedIdsAddTheirGradientsAndAFrozenRowGetsNone) {
  const Tensor dy = random_normal({5, 4}, DType::f64, 2);
  const Tensor table = random_normal({7, 4}, DType::f64, 3);
  const auto loss = [&] {
    const Tensor y = Tensor::uninitialized({5, 4}, DType::f64);
    embedding::forward(ids, table, 1.5, y);
    return dot(y, dy);
  };
  const Tensor dtable = Tensor::zeros({7, 4}, DType::f64);
  embedding::backward(ids, dy, 1.5, dtable);
  EXPECT_TRUE(gradient_matches(loss, table, dtable, 1e-9));

  const Tensor frozen = Tensor::zeros({7, 4}, DType::f64);
  embedding::backward(ids, dy, 1.5, frozen, 3);
  EXPECT_EQ(largest(values(frozen.row(3))), 0);
  EXPECT_TRUE(same_bits(frozen.row(6), dtable.row(6)));
}

TEST(Embedding, AnIdOutsideTheTableIsRefusedBeforeAnythingIsWritten) {
  const Tensor y = Tensor::zeros({2, 4});
  const std::vector<std::int32_t> bad = {1, 7};
  EXPECT_EQ(harness::refusal_of([&] {
              embedding::forward(bad, filled({7, 4}, DType::f32, 1), 1, y);
            }),
            "embedding: id 7 at position 1; the table has 7 rows");
  EXPECT_EQ(largest(values(y)), 0);
}

}  // namespace
}  // namespace metala
