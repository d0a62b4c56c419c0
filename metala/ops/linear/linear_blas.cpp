// Linear maps of many rows with float32 weights, and their gradients, by the BLAS.
#include <algorithm>

#include "metala/base/threads.h"
#include "metala/device/cpu/matrix_product.h"
#include "metala/ops/linear/linear_cpu.h"

namespace metala::linear::cpu {
namespace {

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

void forward_blas(const Tensor& x, const Map& map, bool accumulate) {
  const auto& [weight, bias, y] = map;
  if (bias.defined()) accumulate ? add_bias(bias, y) : start_rows(bias, y);
  const float beta = accumulate || bias.defined() ? 1.0f : 0.0f;
  matrix_product(x, Transpose::no, weight, Transpose::yes, beta, y);
}

void backward_input_blas(const Tensor& dy, const Tensor& weight, Tensor dx) {
  matrix_product(dy, Transpose::no, weight, Transpose::no, 1.0f, dx);
}

void backward_weight_blas(const Tensor& dy, const Tensor& x, Tensor dweight, Tensor dbias) {
  matrix_product(dy, Transpose::yes, x, Transpose::no, 1.0f, dweight);
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
