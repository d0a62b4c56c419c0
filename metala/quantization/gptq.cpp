#include "metala/quantization/gptq.h"

#include <f77blas.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "metala/base/error.h"
#include "metala/base/quantized.h"
#include "metala/base/threads.h"

namespace metala {
namespace {

constexpr double damping = 0.01;  // of the mean diagonal, as the paper has it

constexpr const char* not_finite = "gptq: the calibration text makes values that are not finite";

// Rows that are rounded side by side: each row of U is read once for all of them.
constexpr std::int64_t tile = 8;

// Calls LAPACK's Cholesky routine, in place on the triangle that is the upper one of our rows.
template <class Routine>
void cholesky_step(Routine routine, std::vector<double>& a, std::int64_t n) {
  char lower = 'L';  // LAPACK's columns are our rows
  auto size = static_cast<blasint>(n);
  blasint info = 0;
  routine(&lower, &size, a.data(), &size, &info);
  require(info == 0, "gptq: the moments of the calibration text are not positive definite");
}

// Rounds `rows` (<= tile) rows of w [rows, n], which it spends, into blocks at `to`.
void round_rows(std::vector<float>& w, std::int64_t rows, std::int64_t n, const float* u,
                DType type, std::byte* to) {
  const auto row_bytes = static_cast<std::int64_t>(bytes_of(type, static_cast<std::size_t>(n)));
  for (std::int64_t g = 0; g < n / quantized::group; ++g) {
    const std::int64_t first = g * quantized::group;
    f16 scales[tile];
    quantized::Integers q[tile];
    // A column's loss counts by 1 / U_jj^2: what of it the columns to come cannot make up for.
    quantized::Group importance;
    for (std::int64_t j = 0; j < quantized::group; ++j) {
      const float pivot = u[(first + j) * n + first + j];
      importance[static_cast<std::size_t>(j)] = 1 / (pivot * pivot);
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      quantized::Group weights;
      std::copy_n(w.data() + r * n + first, quantized::group, weights.begin());
      scales[r] = quantized::choose_scale(weights, type, importance);
    }
    for (std::int64_t j = first; j < first + quantized::group; ++j) {
      const float* u_row = u + j * n;
      for (std::int64_t r = 0; r < rows; ++r) {
        float* row = w.data() + r * n;
        const int integer = quantized::nearest(row[j], scales[r], type);
        q[r][static_cast<std::size_t>(j - first)] = static_cast<std::int8_t>(integer);
        const float loss = row[j] - static_cast<float>(scales[r]) * static_cast<float>(integer);
        const float share = loss / u_row[j];
        for (std::int64_t i = j + 1; i < n; ++i) row[i] -= share * u_row[i];
      }
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      quantized::store_group(to + r * row_bytes, n, g, type, scales[r], q[r]);
    }
  }
}

}  // namespace

Tensor inverse_factor(const Tensor& moments) {
  const std::int64_t n = moments.size(0);
  check_tensor("gptq: moments", moments, {n, n}, DType::f32);
  const float* m = moments.data<float>();
  double mean = 0;
  for (std::int64_t j = 0; j < n; ++j) mean += m[j * n + j] / static_cast<double>(n);
  require(std::isfinite(mean), not_finite);
  // Vectors that are all zero say nothing of any column.
  const double extra = mean > 0 ? damping * mean : 1;
  std::vector<double> a(m, m + n * n);
  for (std::int64_t j = 0; j < n; ++j) a[static_cast<std::size_t>(j * n + j)] += extra;
  cholesky_step(BLASFUNC(dpotrf), a, n);
  cholesky_step(BLASFUNC(dpotri), a, n);
  cholesky_step(BLASFUNC(dpotrf), a, n);
  const Tensor factor = Tensor::zeros({n, n}, DType::f32);
  for (std::int64_t j = 0; j < n; ++j) {
    require(std::isfinite(a[static_cast<std::size_t>(j * n + j)]), not_finite);
    for (std::int64_t i = j; i < n; ++i) {
      factor.data<float>()[j * n + i] = static_cast<float>(a[static_cast<std::size_t>(j * n + i)]);
    }
  }
  return factor;
}

Tensor gptq(const Tensor& weight, const Tensor& factor, DType type) {
  const std::int64_t rows = weight.size(0), n = weight.size(1);
  check_tensor("gptq: weight", weight, {rows, n}, DType::f32);
  check_tensor("gptq: factor", factor, {n, n}, DType::f32);
  require(in_blocks(type), "gptq: into q8 or q4, not {}", name_of(type));
  require(n % quantized::multiple == 0, "gptq: rows of {} weights; wanted a multiple of {}", n,
          quantized::multiple);
  const float* from = weight.data<float>();
  const Tensor rounded = Tensor::uninitialized({rows, n}, type);
  const auto row_bytes = static_cast<std::int64_t>(bytes_of(type, static_cast<std::size_t>(n)));
  auto* to = static_cast<std::byte*>(rounded.raw());
  std::atomic<bool> refused{false};
  parallel_chunks(rows, tile, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> w(from + begin * n, from + end * n);
    try {
      round_rows(w, end - begin, n, factor.data<float>(), type, to + begin * row_bytes);
    } catch (const Error&) {  // must not leave a parallel loop
      refused.store(true, std::memory_order_relaxed);
    }
  });
  require(!refused.load(), "gptq: a weight is not finite or too large for a 16-bit scale");
  return rounded;
}

}  // namespace metala
