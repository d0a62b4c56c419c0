// Row-major float32 matrix products by the BLAS: the one place that calls sgemm. C is cut into a
// tile for each thread of the team (base/threads.h), and the BLAS is kept to one thread.
//
//   C = A B + beta C      A [m, k] and B [k, n] after the transpositions asked for; C [m, n]
//
// Strides are those of the stored rows. Sizes beyond the BLAS's 32-bit int are refused.
// Time and flops are charged to the profile scope "matrix products".
#pragma once

#include "metala/base/tensor.h"

namespace metala {

enum class Transpose { no, yes };

void matrix_product(const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
                    float beta, const Tensor& c);

}  // namespace metala
