#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/cross_entropy/cross_entropy.h"

namespace metala {
namespace {

using namespace harness;

class CrossEntropyOnGpu : public GpuTest {};

TEST_F(CrossEntropyOnGpu, AgreesWithTheReferenceWithAndWithoutIgnoredRows) {
  struct Case {
    std::int64_t rows, width, vocabulary;
  };
  for (const Case& c : {Case{5, 3, 1}, {7, 16, 15}, {40, 33, 257}, {1500, 8, 50}, {30, 64, 5000}}) {
    for (const std::size_t ignored : {0, 2, 3}) {  // every so-many-th row
      for (const auto& [type, bound] : {std::pair{DType::f32, 4e-6}, {DType::bf16, 1e-2}}) {
        std::vector<std::int32_t> labels;
        for (std::int64_t n = 0; n < c.rows; ++n) {
          labels.push_back(static_cast<std::int32_t>(n * 7 % c.vocabulary));
          if (ignored > 0 && labels.size() % ignored == 0) labels.back() = -100;
        }
        const Shape rows = {c.rows, c.width};
        const Shape table = {c.vocabulary, c.width};
        const Tensor x = random_normal(rows, DType::f32, 1).cast(type);
        const Tensor w = random_normal(table, DType::f32, 2).cast(type);
        const Tensor dx = there(filled(rows, DType::f32, 0.5), type);
        const Tensor dw = there(filled(table, DType::f32, 0.5));
        const Tensor sums = cross_entropy::zero_sums(gpu_);
        cross_entropy::forward_backward(there(x), there(w), mirrored(labels), 0.5, dx, dw, sums);
        const Tensor dx64 = filled(rows, DType::f64, 0.5);
        const Tensor dw64 = filled(table, DType::f64, 0.5);
        const Tensor sums64 = cross_entropy::zero_sums({});
        cross_entropy::forward_backward(x.cast(DType::f64), w.cast(DType::f64), labels, 0.5, dx64,
                                        dw64, sums64);
        const auto got = cross_entropy::read(sums);
        const auto want = cross_entropy::read(sums64);
        EXPECT_NEAR(got.loss, want.loss, 1e-5 * (1 + want.loss)) << c.vocabulary;
        EXPECT_EQ(got.count, want.count) << c.vocabulary;
        EXPECT_EQ(got.correct, want.correct) << c.vocabulary;
        EXPECT_TRUE(close(dx.to({}), dx64, bound)) << c.vocabulary;
        EXPECT_TRUE(close(dw.to({}), dw64, bound)) << c.vocabulary;
      }
    }
  }
}

TEST_F(CrossEntropyOnGpu, RowLossesAndBestTokensAreGivenAndNanComesThrough) {
  const Tensor x = filled({3, 1}, DType::f32, 1);
  const Tensor w = random_normal({9, 1}, DType::f32, 1);
  w.data<float>()[5] = 20;
  const std::vector<std::int32_t> labels = {5, -100, 2};
  const Tensor loss = Tensor::zeros({3}, DType::f32, gpu_);
  const Tensor best = Tensor::zeros({3}, DType::i32, gpu_);
  const Tensor sums = cross_entropy::zero_sums(gpu_);
  cross_entropy::forward(there(x), there(w), mirrored(labels), sums, loss, best);
  const Tensor losses = loss.to({}), places = best.to({});
  EXPECT_NEAR(losses.data<float>()[0], 0, 1e-6);
  EXPECT_EQ(losses.data<float>()[1], 0);
  EXPECT_NEAR(losses.data<float>()[2], 20 - w.data<float>()[2], 1e-4);
  EXPECT_EQ(places.data<std::int32_t>()[0], 5);
  EXPECT_EQ(places.data<std::int32_t>()[1], -1);
  w.data<float>()[7] = std::numeric_limits<float>::quiet_NaN();
  cross_entropy::forward(there(x), there(w), mirrored(labels), sums, loss, best);
  EXPECT_TRUE(std::isnan(cross_entropy::read(sums).loss));
  EXPECT_EQ(best.to({}).data<std::int32_t>()[2], 7);
}

}  // namespace
}  // namespace metala
