// What tests compare with: neither NaN nor infinity passes.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "metala/harness/compare.h"
#include "metala/harness/gradient_check.h"
#include "metala/harness/random_tensor.h"

namespace metala {
namespace {

using namespace harness;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

Tensor ones_but_for(double last) {
  const Tensor t = filled({100}, DType::f64, 1);
  t.data<double>()[99] = last;
  return t;
}

TEST(Close, IsWithinTheBoundOfTheLargestValue) {
  EXPECT_TRUE(close(ones_but_for(10.5), ones_but_for(10), 0.06));
  EXPECT_FALSE(close(ones_but_for(10.5), ones_but_for(10), 0.04));
  EXPECT_FALSE(close(filled({99}, DType::f64, 1), ones_but_for(1), 1));
}

TEST(Close, NeitherNanNorInfinityPasses) {
  for (const double bad : {nan, infinity}) {
    EXPECT_FALSE(close(ones_but_for(bad), ones_but_for(1), 0.5));
    EXPECT_FALSE(close(ones_but_for(1), ones_but_for(bad), 0.5));
    EXPECT_FALSE(close(ones_but_for(bad), ones_but_for(bad), 0.5));
    EXPECT_EQ(relative_difference(ones_but_for(1), ones_but_for(bad)), infinity);
  }
}

TEST(Largest, IsInfiniteWhereAValueIsNan) {
  EXPECT_EQ(largest({1, -3, 2}), 3);
  EXPECT_EQ(largest({1, nan, 2}), infinity);
}

// The sum of x^2 / 2 has the gradient x.
testing::AssertionResult gradient_of_squares_is(const Tensor& gradient) {
  const Tensor x = random_normal({100}, DType::f64, 1);
  const auto loss = [&] { return dot(x, x) / 2; };
  const Tensor difference = gradient.copy();
  for (std::int64_t i = 0; i < 100; ++i) difference.data<double>()[i] += x.data<double>()[i];
  return gradient_matches(loss, x, difference);
}

TEST(GradientMatches, TheGradientAndNoOther) {
  EXPECT_TRUE(gradient_of_squares_is(Tensor::zeros({100}, DType::f64)));
  EXPECT_FALSE(gradient_of_squares_is(filled({100}, DType::f64, 1e-4)));
}

TEST(GradientMatches, NeitherNanNorInfinityAnywhere) {
  for (const double bad : {nan, infinity}) {
    for (std::int64_t i = 0; i < 100; ++i) {  // 40 of them are looked at
      const Tensor one = Tensor::zeros({100}, DType::f64);
      one.data<double>()[i] = bad;
      EXPECT_FALSE(gradient_of_squares_is(one)) << i;
    }
  }
}

}  // namespace
}  // namespace metala
