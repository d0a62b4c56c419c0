#include "metala/ops/adamw/adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "metala/base/threads.h"
#include "metala/harness/compare.h"
#include "metala/harness/random_tensor.h"

namespace metala {
namespace {

using namespace harness;

double sum_of_squares(const Tensor& t) {
  double sum = 0;
  for (const double x : values(t)) sum += x * x;
  return sum;
}

// Of the gradients as they are: no clipping.
Tensor norm_of(double value) {
  return filled({1}, DType::f64, value);
}

adamw::Slot slot(const char* name, Shape shape, DType type, bool decays) {
  const auto seed = hash_name(name);
  return {name,
          random_normal(shape, type, seed),
          random_normal(shape, type, seed + 1),
          random_normal(shape, type, seed + 2, 0.1),
          filled(shape, type, 0.25),
          decays};
}

TEST(AdamW, WithoutMemoryAnUpdateIsTheRateTimesTheGradientsSign) {
  // lr 1/2, betas 0, eps 0: m = g, v = g^2, so p -= g / |g| / 2, exactly.
  for (const auto type : {DType::f32, DType::f64}) {
    adamw::Slot s = slot("p", {4}, type, false);
    s.parameter = filled({4}, type, 3);
    s.gradient = filled({4}, type, -0.25);
    adamw::update({0.5, 0, 0, 0, 0.1, 0, 7}, {&s, 1}, norm_of(1));
    EXPECT_TRUE(close(s.parameter, filled({4}, type, 3.5), 0));
    EXPECT_TRUE(close(s.first_moment, filled({4}, type, -0.25), 0));
    EXPECT_TRUE(close(s.second_moment, filled({4}, type, 0.0625), 0));
  }
}

TEST(AdamW, DecayShrinksOnlyTheSlotsThatDecay) {
  // A zero gradient and no memory leave only p -= lr wd p.
  for (const bool decays : {false, true}) {
    adamw::Slot s = slot("p", {3}, DType::f64, decays);
    s.parameter = filled({3}, DType::f64, 8);
    s.gradient = Tensor::zeros({3}, DType::f64);
    adamw::update({0.5, 0, 0, 1, 0.25, 0, 1}, {&s, 1}, norm_of(1));
    EXPECT_TRUE(close(s.parameter, filled({3}, DType::f64, decays ? 7 : 8), 0));
  }
}

TEST(AdamW, BiasCorrectionMakesTheFirstStepsMomentsWhole) {
  // From zero moments step 1 gives m/(1-b1) = g and v/(1-b2) = g^2 whatever the betas.
  adamw::Slot s = slot("p", {2}, DType::f64, false);
  s.parameter = Tensor::zeros({2}, DType::f64);
  s.first_moment.fill_zero();
  s.second_moment.fill_zero();
  s.gradient = filled({2}, DType::f64, 3);
  adamw::update({0.5, 0.9, 0.95, 0, 0, 0, 1}, {&s, 1}, norm_of(1));
  EXPECT_TRUE(close(s.parameter, filled({2}, DType::f64, -0.5), 1e-14));
}

TEST(AdamW, FloatAgreesWithDoubleAndBitsDoNotDependOnThreads) {
  const int threads = thread_count();
  const auto run = [&](DType type, int count) {
    set_thread_count(count);
    std::vector<adamw::Slot> slots = {slot("a", {300, 200}, type, true),
                                      slot("b", {7}, type, false), slot("c", {1000}, type, true)};
    for (std::int64_t step = 1; step <= 3; ++step) {
      adamw::update({1e-2, 0.9, 0.95, 1e-8, 0.1, 1, step}, slots, norm_of(2));
    }
    set_thread_count(threads);
    return slots;
  };
  const auto one = run(DType::f32, 1);
  const auto two = run(DType::f32, 2);
  const auto exact = run(DType::f64, 2);
  for (std::size_t i = 0; i < exact.size(); ++i) {
    EXPECT_TRUE(same_bits(two[i].parameter, one[i].parameter));
    EXPECT_TRUE(close(one[i].parameter, exact[i].parameter, 1e-6));
    EXPECT_TRUE(close(one[i].second_moment, exact[i].second_moment, 1e-6));
  }
}

TEST(AdamW, TheGlobalNormIsThatOfAllTensorsAndNeedsNoLuckWithThreads) {
  const std::vector<Tensor> tensors = {random_normal({70, 900}, DType::f32, 1),
                                       random_normal({5}, DType::f64, 2)};
  const double want = std::sqrt(sum_of_squares(tensors[0]) + sum_of_squares(tensors[1]));
  const int threads = thread_count();
  set_thread_count(1);
  const double one = adamw::global_norm(tensors);
  set_thread_count(2);
  EXPECT_EQ(adamw::global_norm(tensors), one);
  set_thread_count(threads);
  EXPECT_NEAR(one, want, 1e-9 * want);
  // In halves, as when two ranks hold a tensor each.
  const Tensor sum = Tensor::zeros({1}, DType::f64), other = Tensor::zeros({1}, DType::f64);
  adamw::sum_of_squares({&tensors[0], 1}, sum);
  adamw::sum_of_squares({&tensors[1], 1}, other);
  sum.data<double>()[0] += other.data<double>()[0];
  adamw::square_root(sum);
  EXPECT_NEAR(sum.data<double>()[0], want, 1e-9 * want);
  tensors[0].data<float>()[1234] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(adamw::global_norm(tensors)));
}

TEST(AdamW, AValueThatIsNotFiniteMakesTheNormNaN) {
  for (const double value : {0.0, -1e300, HUGE_VAL, -HUGE_VAL, std::nan("")}) {
    const Tensor norm = norm_of(3);
    adamw::join_finiteness(norm_of(value), norm);
    if (std::isfinite(value)) {
      EXPECT_EQ(norm.data<double>()[0], 3) << value;
    } else {
      EXPECT_TRUE(std::isnan(norm.data<double>()[0])) << value;
    }
  }
}

// Without memory m is the clipped gradient.
TEST(AdamW, ClippingScalesOnlyNormsAboveTheBound) {
  const auto clipped = [](double norm, double clip) {
    adamw::Slot s = slot("p", {1}, DType::f64, false);
    s.gradient = filled({1}, DType::f64, 1);
    adamw::update({0.5, 0, 0, 1, 0, clip, 1}, {&s, 1}, norm_of(norm));
    return s.first_moment.data<double>()[0];
  };
  EXPECT_EQ(clipped(0.5, 1), 1);
  EXPECT_EQ(clipped(5, 0), 1);
  EXPECT_NEAR(clipped(4, 1), 0.25, 1e-6);
}

TEST(AdamW, TheLossesScaleIsUndoneBeforeClipping) {
  const auto updated = [](double scale, double clip) {
    adamw::Slot s = slot("p", {50}, DType::f32, true);
    const double norm = adamw::global_norm({&s.gradient, 1});
    for (float& g : std::span(s.gradient.data<float>(), 50)) g *= static_cast<float>(scale);
    adamw::update({1e-2, 0.9, 0.95, 1e-8, 0.1, clip, 3, 1 / scale}, {&s, 1}, norm_of(scale * norm));
    return s.parameter;
  };
  for (const double clip : {0.0, 1.0, 1e6}) {
    EXPECT_TRUE(same_bits(updated(1024, clip), updated(1, clip))) << clip;
  }
}

TEST(AdamW, NothingChangesWhenTheNormIsNotFinite) {
  for (const double norm :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const adamw::Slot s = slot("p", {9}, DType::f32, true);
    const Tensor parameter = s.parameter.copy();
    const Tensor moment = s.second_moment.copy();
    adamw::update({}, {&s, 1}, norm_of(norm));
    EXPECT_TRUE(same_bits(s.parameter, parameter));
    EXPECT_TRUE(same_bits(s.second_moment, moment));
  }
}

}  // namespace
}  // namespace metala
