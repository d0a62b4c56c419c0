#include "metala/ops/cross_entropy/cross_entropy.h"

#include "metala/ops/cross_entropy/cross_entropy_cpu.h"
#include "metala/ops/cross_entropy/cross_entropy_cuda.h"
#include "metala/ops/cross_entropy/cross_entropy_reference.h"

namespace metala::cross_entropy {
namespace {

void check(const Tensor& x, const Tensor& weight, Ids labels, const Tensor& sums) {
  require(weight.defined() && weight.rank() == 2, "cross_entropy: weight must be a matrix [V, d]");
  check_tensor("cross_entropy: weight", weight, weight.shape(), weight.dtype());
  const DType type = weight.device().is_cuda() ? weight.dtype() : accumulation_type(weight.dtype());
  check_tensor("cross_entropy: x", x, {static_cast<std::int64_t>(labels.size()), weight.size(1)},
               type);
  check_tensor("cross_entropy: sums", sums, {3}, DType::f64);
  check_labels(labels, weight.size(0));
}

void run(const Tensor& x, const Tensor& weight, Ids labels, double scale, const Gradients& to,
         const Tensor& sums, const Rows& rows) {
  if constexpr (cuda_built) {
    if (x.device().is_cuda()) return cuda::run(x, weight, labels, scale, to, sums, rows);
  }
  const Result found = x.dtype() == DType::f64
                           ? reference::run<double>(x, weight, labels, scale, to, rows)
                           : cpu::run(x, weight, labels, scale, to, rows);
  sums.data<double>()[0] += found.loss;
  sums.data<double>()[1] += static_cast<double>(found.count);
  sums.data<double>()[2] += static_cast<double>(found.correct);
}

}  // namespace

void check_labels(Ids labels, std::int64_t vocabulary) {
  for (std::size_t n = 0; n < labels.size(); ++n) {
    require(labels[n] < vocabulary, "cross_entropy: label {} in row {}; the vocabulary has {}",
            labels[n], n, vocabulary);
  }
}

Tensor zero_sums(Device device) {
  return Tensor::zeros({3}, DType::f64, device);
}

Result read(const Tensor& sums) {
  const Tensor here = sums.to({});
  const auto* found = here.data<double>();
  return {found[0], static_cast<std::int64_t>(found[1]), static_cast<std::int64_t>(found[2])};
}

void forward(const Tensor& x, const Tensor& weight, Ids labels, Tensor sums, Tensor row_loss,
             Tensor row_best) {
  check(x, weight, labels, sums);
  check_optional("cross_entropy: row_loss", row_loss, {x.size(0)}, accumulation_type(x.dtype()));
  check_optional("cross_entropy: row_best", row_best, {x.size(0)}, DType::i32);
  run(x, weight, labels, 0, {}, sums, {row_loss, row_best});
}

void forward_backward(const Tensor& x, const Tensor& weight, Ids labels, double scale, Tensor dx,
                      Tensor dweight, Tensor sums) {
  check(x, weight, labels, sums);
  check_tensor("cross_entropy: weight", weight, weight.shape(), x.dtype());
  check_tensor("cross_entropy: dx", dx, x.shape(), x.dtype());
  check_tensor("cross_entropy: dweight", dweight, weight.shape(), accumulation_type(x.dtype()));
  run(x, weight, labels, scale, {dx, dweight}, sums, {});
}

}  // namespace metala::cross_entropy
