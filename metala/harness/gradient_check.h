// Central differences against analytic gradients, in double.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "metala/base/random.h"
#include "metala/base/tensor.h"

namespace metala::harness {

// sum over elements of a * b: pulling back a random cotangent makes a scalar of any output.
inline double dot(const Tensor& a, const Tensor& b) {
  const Tensor x = a.cast(DType::f64);
  const Tensor y = b.cast(DType::f64);
  double sum = 0;
  for (std::int64_t i = 0; i < x.count(); ++i) sum += x.data<double>()[i] * y.data<double>()[i];
  return sum;
}

// `loss` is a smooth function of the f64 contiguous tensor `at`, which it reads anew at each call;
// `gradient` its analytic gradient. Checks up to `samples` elements, spread by `seed`, each by
// central differences with step `h`; the bound is relative to the largest gradient element.
inline testing::AssertionResult gradient_matches(const std::function<double()>& loss,
                                                 const Tensor& at, const Tensor& gradient,
                                                 double bound = 1e-6, int samples = 40,
                                                 std::uint64_t seed = 1, double h = 1e-5) {
  if (at.shape() != gradient.shape()) return testing::AssertionFailure() << "shapes differ";
  const Tensor g = gradient.cast(DType::f64);
  double scale = 1e-8;
  for (std::int64_t i = 0; i < g.count(); ++i) {
    const double element = std::abs(g.data<double>()[i]);
    if (!std::isfinite(element)) {
      return testing::AssertionFailure() << "gradient of element " << i << " is " << element;
    }
    scale = std::max(scale, element);
  }
  const Philox random(seed, hash_name("gradient_matches"));
  const bool all = at.count() <= samples;
  for (std::int64_t s = 0; s < std::min<std::int64_t>(samples, at.count()); ++s) {
    const auto i =
        all ? s
            : static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(s),
                                                     static_cast<std::uint64_t>(at.count())));
    double& x = at.data<double>()[i];
    const double before = x;
    x = before + h;
    const double up = loss();
    x = before - h;
    const double down = loss();
    x = before;
    const double numeric = (up - down) / (2 * h);
    const double analytic = g.data<double>()[i];
    if (!(std::abs(numeric - analytic) <= bound * scale)) {
      return testing::AssertionFailure()
             << "gradient of element " << i << " of " << at.shape().text() << " is " << analytic
             << ", by differences " << numeric << " (largest gradient " << scale << ")";
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace metala::harness
