#include "metala/ops/linear/linear.h"

#include <algorithm>

#include "metala/base/half.h"
#include "metala/ops/linear/linear_cpu.h"
#include "metala/ops/linear/linear_cuda.h"
#include "metala/ops/linear/linear_reference.h"

namespace metala::linear {
namespace {

bool weight_type_fits(DType x, DType weight, Device device) {
  if (device.is_cuda()) return x == weight && (x == DType::f32 || is_half(x));
  if (x == DType::f64) return weight == DType::f64;
  return x == DType::f32 && (weight == DType::f32 || weight == DType::bf16 ||
                             weight == DType::f16 || in_blocks(weight));
}

void check_matrix(const char* what, const Tensor& t) {
  require(t.defined() && t.rank() == 2, "{} must be a matrix", what);
  check_tensor(what, t, t.shape(), t.dtype());
}

void check(const Tensor& x, const Map& map) {
  const auto& [weight, bias, y] = map;
  check_matrix("linear: weight", weight);
  check_matrix("linear: x", x);
  check_tensor("linear: x", x, {x.size(0), weight.size(1)}, x.dtype());
  require(weight_type_fits(x.dtype(), weight.dtype(), x.device()),
          "linear: x is {} and weight {}; wanted both f64, or x f32 with weight f32, bf16, f16, q8 "
          "or q4, or on a GPU both f32, bf16 or f16",
          name_of(x.dtype()), name_of(weight.dtype()));
  check_optional("linear: bias", bias, {weight.size(0)}, accumulation_type(x.dtype()));
  // On a GPU y may be wider than x.
  check_tensor("linear: y", y, {x.size(0), weight.size(0)},
               x.device().is_cuda() ? y.dtype() : x.dtype());
}

}  // namespace

void forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y, Write write) {
  const Map map = {weight, bias, y};
  forward(x, {&map, 1}, write);
}

void forward(const Tensor& x, std::span<const Map> maps, Write write) {
  const bool accumulate = write == Write::accumulate;
  for (const Map& map : maps) check(x, map);
  if constexpr (cuda_built) {
    if (x.device().is_cuda()) {
      for (const auto& [weight, bias, y] : maps) {
        cuda::forward(x, weight, bias, y, accumulate ? y : Tensor());
      }
      return;
    }
  }
  if (x.dtype() == DType::f64) {
    for (const auto& [weight, bias, y] : maps) {
      reference::forward<double>(x, weight, bias, y, accumulate);
    }
    return;
  }
  if (x.size(0) <= cpu::streaming_rows) return cpu::forward_streaming(x, maps, accumulate);
  const bool all_f32 = std::all_of(maps.begin(), maps.end(),
                                   [](const Map& map) { return map.weight.dtype() == DType::f32; });
  if (!all_f32 || x.size(0) <= cpu::blocked_rows_of_f32) {
    return cpu::forward_blocked(x, maps, accumulate);
  }
  for (const Map& map : maps) cpu::forward_blas(x, map, accumulate);
}

void forward_onto(const Tensor& addend, const Tensor& x, const Tensor& weight, const Tensor& bias,
                  Tensor y) {
  if constexpr (cuda_built) {
    if (x.device().is_cuda()) {
      check(x, {weight, bias, y});
      check_tensor("linear: addend", addend, y.shape(), y.dtype());
      return cuda::forward(x, weight, bias, y, addend);
    }
  }
  if (addend.raw() != y.raw()) y.copy_from(addend);
  forward(x, weight, bias, y, Write::accumulate);
}

void add_bias(const Tensor& bias, Tensor y) {
  check_matrix("linear: y", y);
  check_tensor("linear: bias", bias, {y.size(1)}, accumulation_type(y.dtype()));
  if constexpr (cuda_built) {
    if (y.device().is_cuda()) return cuda::add_bias(bias, y);
  }
  if (y.dtype() == DType::f64) return reference::add_bias<double>(bias, y);
  return reference::add_bias<float>(bias, y);
}

void backward_bias(const Tensor& dy, Tensor dbias) {
  check_matrix("linear: dy", dy);
  check_tensor("linear: dbias", dbias, {dy.size(1)}, accumulation_type(dy.dtype()));
  if constexpr (cuda_built) {
    if (dy.device().is_cuda()) return cuda::backward_bias(dy, dbias);
  }
  if (dy.dtype() == DType::f64) return reference::backward_bias<double>(dy, dbias);
  return reference::backward_bias<float>(dy, dbias);
}

void backward_input(const Tensor& dy, const Tensor& weight, Tensor dx, Write write) {
  check_matrix("linear: weight", weight);
  check_matrix("linear: dy", dy);
  check_tensor("linear: dy", dy, {dy.size(0), weight.size(0)}, weight.dtype());
  check_tensor("linear: dx", dx, {dy.size(0), weight.size(1)}, weight.dtype());
  if constexpr (cuda_built) {
    if (dy.device().is_cuda()) return cuda::backward_input(dy, weight, dx, write);
  }
  prepare(dx, write);
  if (dy.dtype() == DType::f64) return reference::backward_input<double>(dy, weight, dx);
  return cpu::backward_input_blas(dy, weight, dx);
}

void backward_weight(const Tensor& dy, const Tensor& x, Tensor dweight, Tensor dbias) {
  check_matrix("linear: dy", dy);
  check_matrix("linear: x", x);
  check_tensor("linear: x", x, {dy.size(0), x.size(1)}, dy.dtype());
  const DType wide = accumulation_type(dy.dtype());
  check_tensor("linear: dweight", dweight, {dy.size(1), x.size(1)}, wide);
  check_optional("linear: dbias", dbias, {dy.size(1)}, wide);
  if constexpr (cuda_built) {
    if (dy.device().is_cuda()) return cuda::backward_weight(dy, x, dweight, dbias);
  }
  if (dy.dtype() == DType::f64) {
    return reference::backward_weight<double>(dy, x, dweight, dbias);
  }
  return cpu::backward_weight_blas(dy, x, dweight, dbias);
}

}  // namespace metala::linear
