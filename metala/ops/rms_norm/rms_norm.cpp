#include "metala/ops/rms_norm/rms_norm.h"

#include "metala/ops/rms_norm/rms_norm_cpu.h"
#include "metala/ops/rms_norm/rms_norm_cuda.h"
#include "metala/ops/rms_norm/rms_norm_reference.h"

namespace metala::rms_norm {

void forward(const Tensor& x, double eps, Tensor y, Tensor inverse_rms) {
  require(x.defined() && x.rank() == 2, "rms_norm: x must be a matrix [N, d]");
  check_tensor("rms_norm: x", x, x.shape(), x.dtype());
  check_tensor("rms_norm: y", y, x.shape(), x.dtype());
  check_optional("rms_norm: inverse_rms", inverse_rms, {x.size(0)}, accumulation_type(x.dtype()));
  if constexpr (cuda_built) {
    if (x.device().is_cuda()) return cuda::forward(x, eps, y, inverse_rms);
  }
  if (x.dtype() == DType::f64) return reference::forward<double>(x, eps, y, inverse_rms);
  return cpu::forward(x, eps, y, inverse_rms);
}

void backward(const Tensor& dy, const Tensor& y, const Tensor& inverse_rms, Tensor dx,
              Write write) {
  require(y.defined() && y.rank() == 2, "rms_norm: y must be a matrix [N, d]");
  check_tensor("rms_norm: y", y, y.shape(), y.dtype());
  check_tensor("rms_norm: dy", dy, y.shape(), y.dtype());
  check_tensor("rms_norm: inverse_rms", inverse_rms, {y.size(0)}, accumulation_type(y.dtype()));
  check_tensor("rms_norm: dx", dx, y.shape(), y.dtype());
  if constexpr (cuda_built) {
    if (y.device().is_cuda()) return cuda::backward(dy, y, inverse_rms, dx, write);
  }
  prepare(dx, write);
  if (y.dtype() == DType::f64) return reference::backward<double>(dy, y, inverse_rms, dx);
  return cpu::backward(dy, y, inverse_rms, dx);
}

}  // namespace metala::rms_norm
