// Gradients of linear maps by the BLAS.
#include "metala/base/threads.h"
#include "metala/device/cpu/matrix_product.h"
#include "metala/ops/linear/linear_cpu.h"

namespace metala::linear::cpu {
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
