// Matrix products on the GPU by cuBLASLt: row-major, any row strides, f32 in full precision, or
// bf16 or f16 with sums in float32.
#pragma once

#include "metala/base/tensor.h"

namespace metala::cuda {

enum class Transpose : bool { no, yes };

// c = a b, or c = addend + a b, where the addend may be c; a and b transposed first if asked. a and
// b have one type, f32, bf16 or f16; c has that type or is f32. Plans are kept for each shape.
void matrix_product(const Tensor& a, Transpose a_transposed, const Tensor& b,
                    Transpose b_transposed, const Tensor& c, const Tensor& addend = {});

// y[n, :] += bias for every row; bias f32.
void add_bias(const Tensor& bias, const Tensor& y);
// to += from, element by element, matrices of one type.
void add(const Tensor& from, const Tensor& to);

}  // namespace metala::cuda
