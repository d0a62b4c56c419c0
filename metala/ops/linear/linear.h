// Linear map: the projections of the model.
//
//   y = x W^T + b          (or y += with Write::accumulate)
//   dx += dy W             (or dx = with Write::overwrite)
//   dW += dy^T x           db += sum of dy over rows
//
//   x [N, in]   W [out, in]   b [out] or absent   y [N, out]
//
// Types: all f64 (the reference), or x, b, y f32 with W f32, bf16, f16, or in blocks (q8,
// q4; base/quantized.h), or on a GPU x and W both f32 or both bf16. On a CPU x is rounded to bf16
// where W is bf16, and to bytes with a step for every 32 where W is in blocks (linear_reference.h).
// Gradients with respect to W and b are f32, or f64 with all f64. Outer strides of x, y, dy, dx are
// free. On a CPU few rows of x stream W once, more meet it in blocks, and many with f32 weights go
// to the BLAS (README). Throws Error naming the argument, the shape it has and the shape it needs.
#pragma once

#include <span>

#include "metala/base/tensor.h"
#include "metala/base/write.h"

namespace metala::linear {

void forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y,
             Write = Write::overwrite);

// Several maps of one x: y_i = x W_i^T + b_i. On a CPU they are worked on as one, which matters
// where there are few rows; elsewhere one after the other.
struct Map {
  Tensor weight, bias, y;
};
void forward(const Tensor& x, std::span<const Map>, Write = Write::overwrite);

// y += b for every row, and db alone: where several maps share a product (base/joined.h).
void add_bias(const Tensor& bias, Tensor y);
void backward_bias(const Tensor& dy, Tensor dbias);

// y = addend + x W^T + b; the addend may be y.
void forward_onto(const Tensor& addend, const Tensor& x, const Tensor& weight, const Tensor& bias,
                  Tensor y);

void backward_input(const Tensor& dy, const Tensor& weight, Tensor dx, Write = Write::accumulate);

// dbias may be absent.
void backward_weight(const Tensor& dy, const Tensor& x, Tensor dweight, Tensor dbias);

}  // namespace metala::linear
