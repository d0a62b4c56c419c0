#include "metala/ops/cross_entropy/cross_entropy.h"

#include "metala/ops/cross_entropy/cross_entropy_cpu.h"
#include "metala/ops/cross_entropy/cross_entropy_reference.h"

namespace metala::cross_entropy {
namespace {

void check(const Tensor& x, const Tensor& weight, std::span<const std::int32_t> labels) {
  require(weight.defined() && weight.rank() == 2, "cross_entropy: weight must be a matrix [V, d]");
  check_tensor("cross_entropy: weight", weight, weight.shape(), weight.dtype());
  const DType type = weight.dtype() == DType::f64 ? DType::f64 : DType::f32;
  check_tensor("cross_entropy: x", x, {static_cast<std::int64_t>(labels.size()), weight.size(1)},
               type);
  for (std::size_t n = 0; n < labels.size(); ++n) {
    require(labels[n] < weight.size(0), "cross_entropy: label {} in row {}; the vocabulary has {}",
            labels[n], n, weight.size(0));
  }
}

}  // namespace

Result forward(const Tensor& x, const Tensor& weight, std::span<const std::int32_t> labels,
               Tensor row_loss, std::span<std::int32_t> row_best) {
  check(x, weight, labels);
  check_optional("cross_entropy: row_loss", row_loss, {x.size(0)}, x.dtype());
  require(row_best.empty() || row_best.size() == labels.size(),
          "cross_entropy: row_best has {} entries; wanted {}", row_best.size(), labels.size());
  if (x.dtype() == DType::f64) {
    return reference::run<double>(x, weight, labels, 0, {}, {}, row_loss, row_best);
  }
  return cpu::run(x, weight, labels, 0, {}, {}, row_loss, row_best);
}

Result forward_backward(const Tensor& x, const Tensor& weight, std::span<const std::int32_t> labels,
                        double scale, Tensor dx, Tensor dweight) {
  check(x, weight, labels);
  check_tensor("cross_entropy: weight", weight, weight.shape(), x.dtype());
  check_tensor("cross_entropy: dx", dx, x.shape(), x.dtype());
  check_tensor("cross_entropy: dweight", dweight, weight.shape(), x.dtype());
  if (x.dtype() == DType::f64) {
    return reference::run<double>(x, weight, labels, scale, dx, dweight, {}, {});
  }
  return cpu::run(x, weight, labels, scale, dx, dweight, {}, {});
}

}  // namespace metala::cross_entropy
