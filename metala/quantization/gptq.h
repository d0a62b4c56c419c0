// GPTQ: rounds a matrix so that its products with the vectors it will meet change least.
//
//   minimise over Q   tr((W - Q) M (W - Q)^T) = sum over x of |(W - Q) x|^2,    M = sum over x of x
//   x^T
//
// W [out, in] f32, M [in, in] f32 symmetric, Q in 8-bit or 4-bit blocks (base/quantized.h). Columns
// are rounded from first to last; what a column loses is made up for, as far as M lets it, by the
// columns still to come. README.md has the derivation.
// Source: Frantar, Ashkboos, Hoefler, Alistarh: GPTQ, ICLR 2023 (arXiv:2210.17323).
#pragma once

#include "metala/base/dtype.h"
#include "metala/base/tensor.h"

namespace metala {

// The rows of U in M^-1 = U^T U, upper triangular, in f32; M is damped by a hundredth of its mean
// diagonal first, so that any M will do, of fewer vectors than columns too. All matrices that meet
// the same vectors share it. Throws Error for an M that is not finite.
Tensor inverse_factor(const Tensor& moments);

// Q. Throws Error for weights that are not finite, or rows that are no multiple of 64.
Tensor gptq(const Tensor& weight, const Tensor& factor, DType type);

}  // namespace metala
