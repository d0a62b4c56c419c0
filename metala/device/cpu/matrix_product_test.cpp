#include "metala/device/cpu/matrix_product.h"

#include <gtest/gtest.h>

#include <array>

#include "metala/base/threads.h"
#include "metala/harness/compare.h"
#include "metala/harness/random_tensor.h"

namespace metala {
namespace {

using namespace harness;

Tensor plain_product(const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
                     float beta, const Tensor& c) {
  const bool ta = transpose_a == Transpose::yes, tb = transpose_b == Transpose::yes;
  const Tensor want = c.cast(DType::f64);
  const auto at = [](const Tensor& t, std::int64_t row, std::int64_t column) {
    return static_cast<double>(t.data<float>()[row * t.stride(0) + column]);
  };
  for (std::int64_t i = 0; i < c.size(0); ++i) {
    for (std::int64_t j = 0; j < c.size(1); ++j) {
      double sum = beta == 0 ? 0 : beta * at(c, i, j);
      for (std::int64_t k = 0; k < a.size(ta ? 0 : 1); ++k) {
        sum += (ta ? at(a, k, i) : at(a, i, k)) * (tb ? at(b, j, k) : at(b, k, j));
      }
      want.data<double>()[i * want.stride(0) + j] = sum;
    }
  }
  return want;
}

// Sizes that are cut into no tiles, into rows, into columns and into both, by numbers of threads
// that divide nothing.
TEST(MatrixProduct, TilesForAnyNumberOfThreadsGiveTheProduct) {
  const int threads = thread_count();
  for (const auto [m, n, k] : {std::array<std::int64_t, 3>{3, 5, 7},
                               {1, 900, 2500},
                               {900, 1, 2500},
                               {70, 400, 250},
                               {261, 333, 80}}) {
    for (const auto transpose_a : {Transpose::no, Transpose::yes}) {
      for (const auto transpose_b : {Transpose::no, Transpose::yes}) {
        for (const float beta : {0.0f, 1.0f}) {
          const Tensor a = strided(random_normal(
              transpose_a == Transpose::no ? Shape{m, k} : Shape{k, m}, DType::f32, 1));
          const Tensor b = strided(random_normal(
              transpose_b == Transpose::no ? Shape{k, n} : Shape{n, k}, DType::f32, 2));
          const Tensor before =
              beta == 0 ? poisoned({m, n}, DType::f32) : random_normal({m, n}, DType::f32, 3);
          const Tensor want = plain_product(a, transpose_a, b, transpose_b, beta, before);
          for (const int count : {1, 2, 5, 6}) {
            set_thread_count(count);
            const Tensor c = strided(before);
            matrix_product(a, transpose_a, b, transpose_b, beta, c);
            EXPECT_TRUE(close(c, want, 3e-6)) << m << "x" << n << "x" << k << " on " << count;
          }
        }
      }
    }
  }
  set_thread_count(threads);
}

}  // namespace
}  // namespace metala
