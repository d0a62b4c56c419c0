// LayerNorm with weight and bias (either may be absent): the model's other norm.
//
//   m[n] = mean_i x[n,i]      r[n] = 1 / sqrt(mean_i (x[n,i] - m[n])^2 + eps)      h = (x - m) r
//   y = h w + b
//   dx += r (e - mean_i e - h mean_i(e h)), e = dy w       dw += sum_n dy h       db += sum_n dy
//
//   x, y, dy, dx [N, d]   w, b, dw, db [d]   m, r [N]     all f32 or all f64, or on a GPU
//   x, y, dy, dx bf16 and the rest f32; any row stride
//
// The forward pass may leave out m and r; the backward pass needs them, and x.
// Throws Error naming the argument, the shape it has and the shape it needs.
#pragma once

#include "metala/base/tensor.h"

namespace metala::layer_norm {

void forward(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, Tensor y,
             Tensor mean = {}, Tensor inverse_std = {});

void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean,
              const Tensor& inverse_std, Tensor dx, Tensor dweight, Tensor dbias);

}  // namespace metala::layer_norm
