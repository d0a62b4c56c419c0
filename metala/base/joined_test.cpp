#include "metala/base/joined.h"

#include <gtest/gtest.h>

namespace metala {
namespace {

TEST(Joined, MatricesThatFollowOneAnotherAreSeenAsOne) {
  Tensor whole;
  {
    const Tensor stack = Tensor::zeros({5, 3});
    whole = joined({stack.rows(0, 2), stack.rows(2, 3), stack.rows(3, 5)});
    stack.data<float>()[14] = 7;
  }
  ASSERT_TRUE(whole.defined());
  EXPECT_EQ(whole.shape(), Shape({5, 3}));
  EXPECT_EQ(whole.data<float>()[14], 7);  // the memory is kept alive
}

TEST(Joined, GapsOrderAndDifferencesMakeNone) {
  const Tensor stack = Tensor::zeros({6, 4});
  EXPECT_FALSE(joined({}).defined());
  EXPECT_FALSE(joined({Tensor(), stack}).defined());
  EXPECT_FALSE(joined({stack.rows(0, 2), stack.rows(3, 6)}).defined());
  EXPECT_FALSE(joined({stack.rows(2, 6), stack.rows(0, 2)}).defined());
  EXPECT_FALSE(joined({stack.slice(1, 0, 2), stack.slice(1, 2, 4)}).defined());
  EXPECT_FALSE(joined({stack.rows(0, 2), stack.rows(2, 6).reshape({8, 2})}).defined());
  EXPECT_FALSE(joined({stack.rows(0, 2), stack.rows(2, 6).reshape({16})}).defined());
}

}  // namespace
}  // namespace metala
