#include "metala/ops/glu/glu.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "metala/base/threads.h"
#include "metala/ops/glu/glu_cpu.h"
#include "metala/ops/glu/glu_cuda.h"
#include "metala/ops/glu/glu_reference.h"

namespace metala::glu {
namespace {

constexpr std::array<std::pair<std::string_view, Activation>, 11> names = {
    {{"silu", Activation::silu},
     {"swish", Activation::silu},
     {"gelu", Activation::gelu},
     {"relu", Activation::relu},
     {"elu", Activation::elu},
     {"sigmoid", Activation::sigmoid},
     {"leak", Activation::leak},
     {"1+elu", Activation::one_plus_elu},
     {"2+elu", Activation::two_plus_elu},
     {"sine", Activation::sine},
     {"exp", Activation::exp}}};

constexpr std::int64_t rows_per_task = 8;

void check(const Tensor& a, const Tensor& b) {
  require(a.defined() && a.rank() == 2, "glu: a must be a matrix [N, f]");
  check_tensor("glu: a", a, a.shape(), a.dtype());
  check_optional("glu: b", b, a.shape(), a.dtype());
}

}  // namespace

Activation activation_named(std::string_view name) {
  std::string supported;
  for (const auto& [known, activation] : names) {
    if (known == name) return activation;
    supported += (supported.empty() ? "" : ", ") + std::string(known);
  }
  fail("activation \"{}\" is not known; supported: {}", name, supported);
}

std::string_view name_of(Activation activation) {
  const auto found = std::find_if(names.begin(), names.end(),
                                  [&](const auto& entry) { return entry.second == activation; });
  return found->first;
}

// SiLU, which every released model uses, has a vector form; the others run their definition in
// float32, rows side by side.
void forward(Activation activation, const Tensor& a, const Tensor& b, Tensor y) {
  check(a, b);
  check_tensor("glu: y", y, a.shape(), a.dtype());
  if constexpr (cuda_built) {
    if (a.device().is_cuda()) return cuda::forward(activation, a, b, y);
  }
  if (a.dtype() == DType::f64) {
    return reference::forward_rows<double>(activation, a, b, y, 0, a.size(0));
  }
  if (activation == Activation::silu) return cpu::silu_forward(a, b, y);
  parallel_ranges(a.size(0), rows_per_task, [&](std::int64_t begin, std::int64_t end) {
    reference::forward_rows<float>(activation, a, b, y, begin, end);
  });
}

void backward(Activation activation, const Tensor& a, const Tensor& b, const Tensor& dy, Tensor da,
              Tensor db, Write write, Tensor y) {
  check(a, b);
  check_tensor("glu: dy", dy, a.shape(), a.dtype());
  check_tensor("glu: da", da, a.shape(), a.dtype());
  if (b.defined()) check_tensor("glu: db", db, a.shape(), a.dtype());
  check_optional("glu: y", y, a.shape(), a.dtype());
  if constexpr (cuda_built) {
    if (a.device().is_cuda()) return cuda::backward(activation, a, b, dy, da, db, write, y);
  }
  prepare(da, write);
  prepare(db, write);
  if (a.dtype() == DType::f64) {
    reference::backward_rows<double>(activation, a, b, dy, da, db, 0, a.size(0));
  } else if (activation == Activation::silu) {
    cpu::silu_backward(a, b, dy, da, db);
  } else {
    parallel_ranges(a.size(0), rows_per_task, [&](std::int64_t begin, std::int64_t end) {
      reference::backward_rows<float>(activation, a, b, dy, da, db, begin, end);
    });
  }
  if (y.defined()) forward(activation, a, b, y);
}

}  // namespace metala::glu
