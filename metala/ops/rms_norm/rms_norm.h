// Root-mean-square norm without a weight: the model's default norm ("simplermsnorm").
//
//   r[n] = 1 / sqrt(mean_i x[n,i]^2 + eps)          y = x r
//   dx += r (dy - y mean_i(dy y))                     (or dx = with Write::overwrite)
//
//   x, y, dy, dx [N, d]   f32, f64, or bf16 on a GPU; any row stride      r [N] f32 (f64 with f64)
//
// y may be the same memory as x. The forward pass may leave out r; the backward pass needs y and r.
// Throws Error naming the argument, the shape it has and the shape it needs.
#pragma once

#include "metala/base/tensor.h"
#include "metala/base/write.h"

namespace metala::rms_norm {

void forward(const Tensor& x, double eps, Tensor y, Tensor inverse_rms = {});

void backward(const Tensor& dy, const Tensor& y, const Tensor& inverse_rms, Tensor dx,
              Write = Write::accumulate);

}  // namespace metala::rms_norm
