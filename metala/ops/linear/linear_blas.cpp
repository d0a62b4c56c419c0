// Linear maps of many rows by the BLAS, in row-major order.
#include <cblas.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "metala/base/threads.h"
#include "metala/ops/linear/linear_cpu.h"

namespace metala::linear::cpu {
namespace {

// A widened panel of 16-bit weights stays in the second-level cache of one core, more or less.
constexpr std::int64_t panel_elements = 512 * 1024;

int blas_int(std::int64_t n) {
  require(n <= std::numeric_limits<int>::max(), "linear: size {} is beyond the BLAS's int", n);
  return static_cast<int>(n);
}

// y = x W^T + beta y for an f32 W of any number of rows.
void product(const Tensor& x, const Tensor& weight, float beta, const Tensor& y) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, blas_int(x.size(0)),
              blas_int(weight.size(0)), blas_int(x.size(1)), 1.0f, x.data<float>(),
              blas_int(x.stride(0)), weight.data<float>(), blas_int(weight.stride(0)), beta,
              y.data<float>(), blas_int(y.stride(0)));
}

void start_rows(const Tensor& bias, const Tensor& y) {
  const float* b = bias.data<float>();
  parallel_ranges(y.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      std::copy_n(b, y.size(1), y.data<float>() + n * y.stride(0));
    }
  });
}

void add_bias(const Tensor& bias, const Tensor& y) {
  const float* b = bias.data<float>();
  parallel_ranges(y.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      float* row = y.data<float>() + n * y.stride(0);
      for (std::int64_t i = 0; i < y.size(1); ++i) row[i] += b[i];
    }
  });
}

}  // namespace

void forward_blas(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y,
                  bool accumulate) {
  if (bias.defined()) {
    if (accumulate) {
      add_bias(bias, y);
    } else {
      start_rows(bias, y);
    }
  }
  const float beta = accumulate || bias.defined() ? 1.0f : 0.0f;
  if (weight.dtype() == DType::f32) return product(x, weight, beta, y);

  const std::int64_t rows =
      std::clamp<std::int64_t>(panel_elements / std::max<std::int64_t>(weight.size(1), 1), 1,
                               std::max<std::int64_t>(weight.size(0), 1));
  const Tensor panel = Tensor::uninitialized({rows, weight.size(1)});
  for (std::int64_t at = 0; at < weight.size(0); at += rows) {
    const std::int64_t end = std::min(at + rows, weight.size(0));
    const Tensor part = panel.rows(0, end - at);
    widen(weight.rows(at, end), part);
    product(x, part, beta, y.slice(1, at, end));
  }
}

void backward_input_blas(const Tensor& dy, const Tensor& weight, Tensor dx) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, blas_int(dy.size(0)),
              blas_int(weight.size(1)), blas_int(weight.size(0)), 1.0f, dy.data<float>(),
              blas_int(dy.stride(0)), weight.data<float>(), blas_int(weight.stride(0)), 1.0f,
              dx.data<float>(), blas_int(dx.stride(0)));
}

void backward_weight_blas(const Tensor& dy, const Tensor& x, Tensor dweight, Tensor dbias) {
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, blas_int(dy.size(1)), blas_int(x.size(1)),
              blas_int(dy.size(0)), 1.0f, dy.data<float>(), blas_int(dy.stride(0)), x.data<float>(),
              blas_int(x.stride(0)), 1.0f, dweight.data<float>(), blas_int(dweight.stride(0)));
  if (!dbias.defined()) return;
  // Each thread owns columns, so the order of the sum over rows never depends on their number.
  parallel_ranges(dy.size(1), 64, [&](std::int64_t begin, std::int64_t end) {
    float* into = dbias.data<float>();
    for (std::int64_t n = 0; n < dy.size(0); ++n) {
      const float* row = dy.data<float>() + n * dy.stride(0);
      for (std::int64_t i = begin; i < end; ++i) into[i] += row[i];
    }
  });
}

}  // namespace metala::linear::cpu
