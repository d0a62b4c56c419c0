#include "metala/device/cpu/matrix_product.h"

#include <cblas.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <shared_mutex>

#include "metala/base/profile.h"
#include "metala/base/threads.h"

namespace metala {
namespace {

int blas_int(std::int64_t n) {
  require(n <= std::numeric_limits<int>::max(), "matrix product: size {} is beyond the BLAS's int",
          n);
  return static_cast<int>(n);
}

// The BLAS wants a row stride of at least 1 even where there is one row or none.
int row_stride(const Tensor& t) {
  return blas_int(std::max<std::int64_t>({t.stride(0), t.size(1), 1}));
}

CBLAS_TRANSPOSE blas(Transpose t) {
  return t == Transpose::yes ? CblasTrans : CblasNoTrans;
}

// The BLAS multiplies on the thread that calls it: were it to start threads of its own, they would
// compete with the team's. Its OpenMP build asks every calling thread anew how many it may start,
// and what telling it does to its buffers is not guarded: by two threads at once, 0.3.21 frees one
// twice and later gives it to two products. So a thread tells it while no other does or multiplies.
std::shared_mutex telling_blas;

void keep_blas_on_this_thread() {
  thread_local const bool done = [] {
    const std::unique_lock alone(telling_blas);
    openblas_set_num_threads(1);
    return true;
  }();
  static_cast<void>(done);
}

struct Grid {
  std::int64_t rows, columns;
};

// C in as many tiles as threads: one below the other while they are high enough, then beside each
// other too (two halves of 512 to 2048 rows: 410 to 445 GFLOP/s; left and right: 350 to 430).
Grid grid_for(std::int64_t m, std::int64_t n, std::int64_t k) {
  constexpr double fewest_flops = 2e6;  // worth a thread: some ten microseconds
  constexpr std::int64_t fewest_rows = 128;
  const double flops =
      2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  const auto most = static_cast<std::int64_t>(flops / fewest_flops);
  const std::int64_t tiles = std::clamp<std::int64_t>(most, 1, thread_count());
  std::int64_t rows = std::clamp<std::int64_t>(m / fewest_rows, 1, tiles);
  while (tiles % rows != 0) --rows;
  return {rows, tiles / rows};
}

// Where part i of `parts` begins: at whole vectors, where the BLAS's kernels are fastest.
std::int64_t begin_of(std::int64_t i, std::int64_t parts, std::int64_t n) {
  constexpr std::int64_t step = 16;
  return i == parts ? n : n * i / parts / step * step;
}

}  // namespace

void matrix_product(const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
                    float beta, const Tensor& c) {
  const std::int64_t inner = a.size(transpose_a == Transpose::yes ? 0 : 1);
  if (c.count() == 0) return;
  const profile::Scope scope("matrix products",
                             2.0 * static_cast<double>(c.count()) * static_cast<double>(inner));
  const std::int64_t m = c.size(0), n = c.size(1);
  const int k = blas_int(inner), lda = row_stride(a), ldb = row_stride(b), ldc = row_stride(c);
  blas_int(std::max(m, n));
  const std::int64_t step_a = transpose_a == Transpose::yes ? 1 : a.stride(0);
  const std::int64_t step_b = transpose_b == Transpose::yes ? b.stride(0) : 1;
  const Grid grid = grid_for(m, n, inner);
  parallel_tasks(grid.rows * grid.columns, [&](std::int64_t i) {
    const std::int64_t row = i / grid.columns, column = i % grid.columns;
    const std::int64_t top = begin_of(row, grid.rows, m);
    const std::int64_t left = begin_of(column, grid.columns, n);
    const auto height = static_cast<int>(begin_of(row + 1, grid.rows, m) - top);
    const auto width = static_cast<int>(begin_of(column + 1, grid.columns, n) - left);
    if (height == 0 || width == 0) return;
    keep_blas_on_this_thread();
    const std::shared_lock beside_others(telling_blas);
    cblas_sgemm(CblasRowMajor, blas(transpose_a), blas(transpose_b), height, width, k, 1.0f,
                a.data<float>() + top * step_a, lda, b.data<float>() + left * step_b, ldb, beta,
                c.data<float>() + top * c.stride(0) + left, ldc);
  });
}

}  // namespace metala
