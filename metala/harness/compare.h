// Comparing tensors in tests. Comparisons are written so that NaN fails, and so does an infinity
// among what is wanted: a bound relative to it would hold for anything.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "metala/base/tensor.h"

namespace metala::harness {

// All elements in row-major order, as double, whatever type and strides.
inline std::vector<double> values(const Tensor& t) {
  const Tensor flat = t.cast(DType::f64);
  const double* data = flat.data<double>();
  return {data, data + flat.count()};
}

// Infinity where one is NaN.
inline double largest(const std::vector<double>& v) {
  double most = 0;
  for (const double x : v) {
    most = std::isnan(x) ? std::numeric_limits<double>::infinity() : std::max(most, std::abs(x));
  }
  return most;
}

// max |got - want| / max |want|; infinity when shapes differ, any value is NaN or one wanted is
// infinite. Tensors that are zero throughout compare by the absolute difference.
inline double relative_difference(const Tensor& got, const Tensor& want) {
  if (got.shape() != want.shape()) return std::numeric_limits<double>::infinity();
  const auto g = values(got);
  const auto w = values(want);
  double difference = 0;
  for (std::size_t i = 0; i < g.size(); ++i) {
    const double d = std::abs(g[i] - w[i]);
    if (!(d <= difference)) difference = d;
    if (std::isnan(d)) return std::numeric_limits<double>::infinity();
  }
  const double scale = largest(w);
  if (std::isinf(scale)) return scale;
  return scale > 0 ? difference / scale : difference;
}

// With METALA_SHOW_ERRORS set, `close` also prints what it found beside its bound: how much room a
// bound leaves shows only where it holds.
inline void show_error(double difference, double bound) {
  if (std::getenv("METALA_SHOW_ERRORS") == nullptr) return;
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  std::printf("%s.%s: %.2e of %.2e\n", test->test_suite_name(), test->name(), difference, bound);
}

// Passes when every element of `got` is within bound * max|want| of `want`.
inline testing::AssertionResult close(const Tensor& got, const Tensor& want, double bound) {
  if (got.shape() != want.shape()) {
    return testing::AssertionFailure()
           << "shape " << got.shape().text() << ", wanted " << want.shape().text();
  }
  const auto g = values(got);
  const auto w = values(want);
  const double scale = std::max(largest(w), 1e-30);
  if (std::isinf(scale)) return testing::AssertionFailure() << "an infinity is wanted";
  show_error(relative_difference(got, want), bound);
  for (std::size_t i = 0; i < g.size(); ++i) {
    if (!(std::abs(g[i] - w[i]) <= bound * scale)) {
      return testing::AssertionFailure()
             << "element " << i << " of " << got.shape().text() << " is " << g[i] << ", wanted "
             << w[i] << ": off by " << std::abs(g[i] - w[i]) / scale
             << " of the largest value, bound " << bound;
    }
  }
  return testing::AssertionSuccess();
}

// The same bits, NaN payloads included.
inline testing::AssertionResult same_bits(const Tensor& got, const Tensor& want) {
  if (got.shape() != want.shape() || got.dtype() != want.dtype()) {
    return testing::AssertionFailure() << "shape or type differs";
  }
  const Tensor a = got.copy();
  const Tensor b = want.copy();
  if (a.count() == 0 || std::memcmp(a.raw(), b.raw(), a.bytes()) == 0) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure()
         << "bits differ; largest relative difference " << relative_difference(a, b);
}

}  // namespace metala::harness
