#include "metala/ops/short_conv/short_conv.h"

#include "metala/ops/short_conv/short_conv_cpu.h"
#include "metala/ops/short_conv/short_conv_cuda.h"
#include "metala/ops/short_conv/short_conv_reference.h"

namespace metala::short_conv {
namespace {

void check(const Tensor& x, const Tensor& weight, Offsets offsets) {
  require(x.defined() && x.rank() == 2, "short_conv: x must be a matrix [N, d]");
  check_tensor("short_conv: x", x, x.shape(), x.dtype());
  require(weight.defined(), "short_conv: weight is absent");
  require(weight.rank() == 2 && weight.size(1) >= 1 && weight.size(1) <= std::int64_t{widest},
          "short_conv: weight is {}; wanted [{}, W] with W from 1 to {}", weight.shape(), x.size(1),
          widest);
  check_tensor("short_conv: weight", weight, {x.size(1), weight.size(1)},
               accumulation_type(x.dtype()));
  require(weight.contiguous(), "short_conv: weight must be contiguous");
  check_offsets("short_conv", offsets, x.size(0));
}

void check_state(const char* what, const Tensor& state, const Tensor& x, const Tensor& weight,
                 Offsets offsets) {
  check_optional(what, state, {batch_of(offsets), x.size(1), weight.size(1)},
                 accumulation_type(x.dtype()));
  require(!state.defined() || state.contiguous(), "{} must be contiguous", what);
}

}  // namespace

void forward(const Tensor& x, const Tensor& weight, Offsets offsets, const Tensor& before, Tensor y,
             Tensor after) {
  check(x, weight, offsets);
  check_state("short_conv: before", before, x, weight, offsets);
  check_tensor("short_conv: y", y, x.shape(), x.dtype());
  check_state("short_conv: after", after, x, weight, offsets);
  if constexpr (cuda_built) {
    if (x.device().is_cuda()) return cuda::forward(x, weight, offsets, before, y, after);
  }
  if (x.dtype() == DType::f64) {
    return reference::forward<double>(x, weight, offsets, before, y, after);
  }
  return cpu::forward(x, weight, offsets, before, y, after);
}

void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, Offsets offsets,
              const Tensor& before, const Tensor& dafter, Tensor dx, Tensor dweight, Tensor dbefore,
              Write dx_write) {
  check(x, weight, offsets);
  check_tensor("short_conv: dy", dy, x.shape(), x.dtype());
  check_state("short_conv: before", before, x, weight, offsets);
  check_state("short_conv: dafter", dafter, x, weight, offsets);
  check_tensor("short_conv: dx", dx, x.shape(), x.dtype());
  check_tensor("short_conv: dweight", dweight, weight.shape(), accumulation_type(x.dtype()));
  require(dweight.contiguous(), "short_conv: dweight must be contiguous");
  check_state("short_conv: dbefore", dbefore, x, weight, offsets);
  if constexpr (cuda_built) {
    if (x.device().is_cuda()) {
      return cuda::backward(dy, x, weight, offsets, before, dafter, dx, dweight, dbefore, dx_write);
    }
  }
  prepare(dx, dx_write);
  if (x.dtype() == DType::f64) {
    return reference::backward<double>(dy, x, weight, offsets, before, dafter, dx, dweight,
                                       dbefore);
  }
  return cpu::backward(dy, x, weight, offsets, before, dafter, dx, dweight, dbefore);
}

}  // namespace metala::short_conv
