// Sums down the columns of a matrix on the GPU: gradients of vectors that all tokens share.
// Partial sums are added in a fixed order, so the same inputs give the same bits.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "metala/base/tensor.h"

namespace metala::cuda {

// to[i] += sum over n of rows[n, i]; rows [N, w] f32 or bf16, to [w] f32.
void add_column_sums(const Tensor& rows, const Tensor& to);

// to[i] += sum over n < count of partial[n * width + i].
void add_partial_sums(const float* partial, std::int64_t count, std::int64_t width, float* to,
                      cudaStream_t stream);

}  // namespace metala::cuda
