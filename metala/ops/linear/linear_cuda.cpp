#include "metala/ops/linear/linear_cuda.h"

#include "metala/device/cuda/column_sums.h"
#include "metala/device/cuda/matrix_product_cuda.h"

namespace metala::linear::cuda {

using metala::cuda::matrix_product;
using metala::cuda::Transpose;

void forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y,
             const Tensor& addend) {
  matrix_product(x, Transpose::no, weight, Transpose::yes, y, addend);
  if (bias.defined()) metala::cuda::add_bias(bias, y);
}

void add_bias(const Tensor& bias, const Tensor& y) {
  metala::cuda::add_bias(bias, y);
}

void backward_bias(const Tensor& dy, const Tensor& dbias) {
  metala::cuda::add_column_sums(dy, dbias);
}

void backward_input(const Tensor& dy, const Tensor& weight, Tensor dx, Write write) {
  matrix_product(dy, Transpose::no, weight, Transpose::no, dx,
                 write == Write::accumulate ? dx : Tensor());
}

void backward_weight(const Tensor& dy, const Tensor& x, Tensor dweight, Tensor dbias) {
  matrix_product(dy, Transpose::yes, x, Transpose::no, dweight, dweight);
  if (dbias.defined()) metala::cuda::add_column_sums(dy, dbias);
}

}  // namespace metala::linear::cuda
