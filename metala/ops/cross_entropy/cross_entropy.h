// Softmax cross entropy of a linear head, without ever holding all logits.
//
//   z = x W^T        p = softmax(z)
//   loss = sum of logsumexp(z[n]) - z[n, label[n]] over the rows n that have a label
//   dx += scale (p - onehot(label)) W
//   dW += scale (p - onehot(label))^T x
//
//   x, dx [N, d]   W, dW [V, d]   labels [N], -100 (any negative) = ignored, else < V
//   x f32 with W f32 (bf16 and f16 in `forward` only), or all f64; on a GPU also x, W, dx bf16 with
//   dW f32; any row stride of x and dx
//
// What is found is added to `sums`, which lies where x does: on a GPU nobody waits for it.
//
// Rows are worked on in tiles; ignored rows cost nothing. Logits, softmax and sums are f32 (f64),
// the loss is summed in double. `scale` is the gradient of what is minimised with respect to the
// summed loss: 1 / count for a mean.
// A NaN among a row's logits makes its loss and gradients NaN; it counts as the largest.
// Throws Error naming the argument, or the row of a label outside the vocabulary.
#pragma once

#include <cstdint>

#include "metala/base/ragged.h"
#include "metala/base/tensor.h"

namespace metala::cross_entropy {

struct Result {
  double loss = 0;           // summed, natural logarithm
  std::int64_t count = 0;    // rows with a label
  std::int64_t correct = 0;  // rows whose label is the (first) largest logit
};

// Sums [3] f64: loss, count, correct.
Tensor zero_sums(Device);
Result read(const Tensor& sums);  // waits for the device

// Throws Error naming the first row whose label is not in the vocabulary.
void check_labels(Ids labels, std::int64_t vocabulary);

// row_loss [N] f32 (f64 with f64), may be absent: each row's loss, 0 for ignored rows.
// row_best [N] i32, may be absent: the index of the first largest logit of each labelled row, else
// -1.
void forward(const Tensor& x, const Tensor& weight, Ids labels, Tensor sums, Tensor row_loss = {},
             Tensor row_best = {});

// The same with gradients; dx and dW are added to.
void forward_backward(const Tensor& x, const Tensor& weight, Ids labels, double scale, Tensor dx,
                      Tensor dweight, Tensor sums);

}  // namespace metala::cross_entropy
