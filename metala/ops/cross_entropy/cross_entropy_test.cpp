#include "metala/ops/cross_entropy/cross_entropy.h"

#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gradient_check.h"
#include "metala/harness/random_tensor.h"
#include "metala/harness/refusal.h"

namespace metala {
namespace {

using namespace harness;

struct Case {
  std::int64_t rows, width, vocabulary;
};
// Vocabularies at vector seams, one of 1, more rows than a tile, no row at all.
const Case cases[] = {{5, 3, 1}, {7, 16, 15}, {9, 20, 16}, {40, 33, 257}, {1500, 8, 50}, {0, 4, 9}};

std::vector<std::int32_t> labels_for(const Case& c) {
  std::vector<std::int32_t> labels;
  const Philox random(9);
  for (std::int64_t n = 0; n < c.rows; ++n) {
    const auto i = static_cast<std::uint64_t>(n);
    const auto label = random.below(i, static_cast<std::uint64_t>(c.vocabulary));
    labels.push_back(n % 3 == 1 ? -100 : static_cast<std::int32_t>(label));
  }
  return labels;
}

cross_entropy::Result losses(const Tensor& x, const Tensor& w,
                             const std::vector<std::int32_t>& labels, const Tensor& row_loss = {},
                             const Tensor& row_best = {}) {
  const Tensor sums = cross_entropy::zero_sums({});
  cross_entropy::forward(x, w, labels, sums, row_loss, row_best);
  return cross_entropy::read(sums);
}

cross_entropy::Result gradients(const Tensor& x, const Tensor& w,
                                const std::vector<std::int32_t>& labels, double scale,
                                const Tensor& dx, const Tensor& dw) {
  const Tensor sums = cross_entropy::zero_sums({});
  cross_entropy::forward_backward(x, w, labels, scale, dx, dw, sums);
  return cross_entropy::read(sums);
}

TEST(CrossEntropy, FastFormAgreesWithTheReference) {
  for (const auto& c : cases) {
    const Tensor x = strided(random_normal({c.rows, c.width}, DType::f32, 1));
    const Tensor w = random_normal({c.vocabulary, c.width}, DType::f32, 2);
    const auto labels = labels_for(c);
    const Tensor dx = strided(random_normal({c.rows, c.width}, DType::f32, 3));
    const Tensor dw = random_normal({c.vocabulary, c.width}, DType::f32, 4);
    const Tensor dx64 = dx.cast(DType::f64), dw64 = dw.cast(DType::f64);
    const auto got = gradients(x, w, labels, 0.5, dx, dw);
    const auto want = gradients(x.cast(DType::f64), w.cast(DType::f64), labels, 0.5, dx64, dw64);
    EXPECT_NEAR(got.loss, want.loss, 1e-6 * (1 + want.loss));
    EXPECT_EQ(got.count, want.count);
    EXPECT_EQ(got.correct, want.correct);
    EXPECT_TRUE(close(dx, dx64, 3e-6)) << c.vocabulary;
    EXPECT_TRUE(close(dw, dw64, 3e-6)) << c.vocabulary;
  }
}

TEST(CrossEntropy, RowLossesAddUpToTheLossAndIgnoredRowsHaveNone) {
  const Case c = {40, 12, 31};
  const Tensor x = random_normal({c.rows, c.width}, DType::f32, 1);
  const auto labels = labels_for(c);
  for (const auto type : {DType::f32, DType::bf16, DType::f16}) {
    const Tensor w = random_normal({c.vocabulary, c.width}, type, 2);
    const Tensor rows = poisoned({c.rows}, DType::f32);
    const Tensor found = Tensor::zeros({c.rows}, DType::i32);
    const auto* best = found.data<std::int32_t>();
    const auto result = losses(x, w, labels, rows, found);
    double sum = 0;
    std::int64_t correct = 0;
    for (std::size_t n = 0; n < labels.size(); ++n) {
      sum += static_cast<double>(rows.data<float>()[n]);
      if (labels[n] < 0) {
        EXPECT_EQ(rows.data<float>()[n], 0.0f);
        EXPECT_EQ(best[n], -1);
      }
      correct += labels[n] >= 0 && best[n] == labels[n] ? 1 : 0;
    }
    EXPECT_NEAR(sum, result.loss, 1e-4);
    EXPECT_EQ(correct, result.correct);
  }
}

TEST(CrossEntropy, GradientsMatchCentralDifferences) {
  const Case c = {6, 4, 9};
  const Tensor x = random_normal({c.rows, c.width}, DType::f64, 1);
  const Tensor w = random_normal({c.vocabulary, c.width}, DType::f64, 2);
  const auto labels = labels_for(c);
  const auto loss = [&] { return 0.25 * losses(x, w, labels).loss; };
  const Tensor dx = Tensor::zeros(x.shape(), DType::f64);
  const Tensor dw = Tensor::zeros(w.shape(), DType::f64);
  gradients(x, w, labels, 0.25, dx, dw);
  EXPECT_TRUE(gradient_matches(loss, x, dx, 1e-8));
  EXPECT_TRUE(gradient_matches(loss, w, dw, 1e-8));
}

TEST(CrossEntropy, HugeLogitsStayFiniteAndNanComesThrough) {
  const Tensor x = filled({1, 1}, DType::f32, 1e4);
  const Tensor w = Tensor::zeros({3, 1});
  w.data<float>()[0] = 1;
  w.data<float>()[1] = -1;
  const std::vector<std::int32_t> label = {1};
  EXPECT_NEAR(losses(x, w, label).loss, 2e4, 1);
  w.data<float>()[2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(losses(x, w, label).loss));
}

TEST(CrossEntropy, ALabelOutsideTheVocabularyIsRefusedByRow) {
  const std::vector<std::int32_t> labels = {0, 3};
  EXPECT_EQ(harness::refusal_of([&] {
              losses(Tensor::zeros({2, 2}), Tensor::zeros({3, 2}), labels);
            }),
            "cross_entropy: label 3 in row 1; the vocabulary has 3");
}

}  // namespace
}  // namespace metala
