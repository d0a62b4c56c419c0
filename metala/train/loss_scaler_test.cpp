#include "metala/train/loss_scaler.h"

#include <gtest/gtest.h>

namespace metala {
namespace {

LossScaling dynamic_scaling() {
  LossScaling s;
  s.on = true;
  s.window = 4;
  return s;
}

TEST(LossScaler, OverflowsSpendCreditsAndThenHalveTheScale) {
  LossScaler scaler(dynamic_scaling());
  EXPECT_EQ(scaler.scale(), 65536);
  EXPECT_EQ(scaler.overflowed(), "");
  EXPECT_EQ(scaler.scale(), 65536);  // a credit is spent
  EXPECT_EQ(scaler.overflowed(), "");
  EXPECT_EQ(scaler.scale(), 32768);
  EXPECT_EQ(scaler.overflowed(), "");
  EXPECT_EQ(scaler.scale(), 16384);  // credits come back with the window only
  EXPECT_EQ(scaler.state().left_out, 3);
}

TEST(LossScaler, AWindowWithoutOverflowDoublesTheScaleAndRefillsTheCredits) {
  LossScaler scaler(dynamic_scaling());
  scaler.overflowed();
  scaler.overflowed();
  ASSERT_EQ(scaler.scale(), 32768);
  for (int step = 0; step < 3; ++step) scaler.passed();
  EXPECT_EQ(scaler.scale(), 32768);
  scaler.passed();
  EXPECT_EQ(scaler.scale(), 65536);
  scaler.overflowed();
  EXPECT_EQ(scaler.scale(), 65536);  // from the new credits
  for (int step = 0; step < 8; ++step) scaler.passed();
  EXPECT_EQ(scaler.scale(), 4 * 65536.0);
}

TEST(LossScaler, AnOverflowAtTheSmallestScaleOrFiftyInARowAreHopeless) {
  LossScaling scaling = dynamic_scaling();
  scaling.initial_power = 3;
  scaling.minimum = 4;
  LossScaler scaler(scaling);
  EXPECT_EQ(scaler.overflowed(), "");
  EXPECT_EQ(scaler.overflowed(), "");
  ASSERT_EQ(scaler.scale(), 4);
  EXPECT_EQ(scaler.overflowed(), "the loss scale is 4 and cannot fall further");

  scaling.fixed = 128;
  LossScaler fixed(scaling);
  EXPECT_EQ(fixed.scale(), 128);
  for (int step = 0; step < 49; ++step) EXPECT_EQ(fixed.overflowed(), "");
  EXPECT_EQ(fixed.scale(), 128);
  EXPECT_EQ(fixed.overflowed(), "50 steps in a row overflowed");
  fixed.passed();
  EXPECT_EQ(fixed.overflowed(), "");
}

TEST(LossScaler, WithoutScalingTheScaleIsOne) {
  LossScaler scaler(LossScaling{});
  for (int step = 0; step < 3000; ++step) scaler.passed();
  EXPECT_EQ(scaler.scale(), 1);
}

TEST(LossScaler, GoesOnFromAnEarlierState) {
  LossScaler first(dynamic_scaling());
  first.overflowed();
  first.overflowed();
  for (int step = 0; step < 3; ++step) first.passed();
  LossScaler second(dynamic_scaling());
  second.restore(first.state());
  first.passed();
  second.passed();
  EXPECT_EQ(second.state(), first.state());
  EXPECT_EQ(second.scale(), 65536);
}

}  // namespace
}  // namespace metala
