#include "metala/ops/layer_norm/layer_norm.h"

#include "metala/base/half.h"
#include "metala/base/threads.h"
#include "metala/ops/layer_norm/layer_norm_cuda.h"
#include "metala/ops/layer_norm/layer_norm_reference.h"

namespace metala::layer_norm {
namespace {

constexpr std::int64_t rows_per_task = 16;
constexpr std::int64_t columns_per_task = 64;

void check(const Tensor& x, const Tensor& weight) {
  const bool fits = x.defined() && (x.dtype() == DType::f32 || x.dtype() == DType::f64 ||
                                    (is_half(x.dtype()) && x.device().is_cuda()));
  require(fits && x.rank() == 2, "layer_norm: x must be a matrix [N, d] of f32 or f64");
  check_tensor("layer_norm: x", x, x.shape(), x.dtype());
  check_optional("layer_norm: weight", weight, {x.size(1)}, accumulation_type(x.dtype()));
}

// f(float or double value) for the type of x.
template <class F>
void typed(const Tensor& x, F f) {
  if (x.dtype() == DType::f64) return f(double{});
  return f(float{});
}

}  // namespace

void forward(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, Tensor y,
             Tensor mean, Tensor inverse_std) {
  check(x, weight);
  const DType wide = accumulation_type(x.dtype());
  check_optional("layer_norm: bias", bias, {x.size(1)}, wide);
  check_tensor("layer_norm: y", y, x.shape(), x.dtype());
  check_optional("layer_norm: mean", mean, {x.size(0)}, wide);
  check_optional("layer_norm: inverse_std", inverse_std, {x.size(0)}, wide);
  if constexpr (cuda_built) {
    if (x.device().is_cuda()) return cuda::forward(x, weight, bias, eps, y, mean, inverse_std);
  }
  typed(x, [&]<class T>(T) {
    parallel_ranges(x.size(0), rows_per_task, [&](std::int64_t begin, std::int64_t end) {
      reference::forward_rows<T>(x, weight, bias, eps, y, mean, inverse_std, begin, end);
    });
  });
}

void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean,
              const Tensor& inverse_std, Tensor dx, Tensor dweight, Tensor dbias) {
  check(x, weight);
  check_tensor("layer_norm: dy", dy, x.shape(), x.dtype());
  const DType wide = accumulation_type(x.dtype());
  check_tensor("layer_norm: mean", mean, {x.size(0)}, wide);
  check_tensor("layer_norm: inverse_std", inverse_std, {x.size(0)}, wide);
  check_tensor("layer_norm: dx", dx, x.shape(), x.dtype());
  check_optional("layer_norm: dweight", dweight, {x.size(1)}, wide);
  check_optional("layer_norm: dbias", dbias, {x.size(1)}, wide);
  if constexpr (cuda_built) {
    if (x.device().is_cuda()) {
      return cuda::backward(dy, x, weight, mean, inverse_std, dx, dweight, dbias);
    }
  }
  typed(x, [&]<class T>(T) {
    parallel_ranges(x.size(0), rows_per_task, [&](std::int64_t begin, std::int64_t end) {
      reference::backward_rows<T>(dy, x, weight, mean, inverse_std, dx, begin, end);
    });
    if (!dweight.defined() && !dbias.defined()) return;
    parallel_ranges(x.size(1), columns_per_task, [&](std::int64_t begin, std::int64_t end) {
      reference::backward_columns<T>(dy, x, mean, inverse_std, dweight, dbias, begin, end);
    });
  });
}

}  // namespace metala::layer_norm
