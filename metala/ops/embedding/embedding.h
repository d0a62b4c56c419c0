// Embedding: rows of a table.
//
//   y[n] = scale * E[ids[n]]          dE[ids[n]] += scale * dy[n]
//
//   ids [N], each in 0..V-1   E [V, d] (f32, bf16, f16, q8, q4; f64)   y, dy [N, d] f32 (f64 with
//   f64; on a GPU also bf16)   dE f32 or f64
//
// The rows of ids equal to `frozen_id` receive no gradient (Hugging Face's padding_idx); -1: none.
// Throws Error for an id outside the table: "embedding: id 40000 at position 3; the table has
// 32000 rows".
#pragma once

#include <cstdint>

#include "metala/base/ragged.h"
#include "metala/base/tensor.h"

namespace metala::embedding {

void forward(Ids ids, const Tensor& table, double scale, Tensor y);

void backward(Ids ids, const Tensor& dy, double scale, Tensor dtable, std::int32_t frozen_id = -1);

}  // namespace metala::embedding
