// The CUDA form: table f32 or bf16, y and dy f32 or bf16, dtable f32. Ids must be mirrored on the
// GPU; ids outside the table, which only a kernel can have written there, give NaN and no gradient.
#pragma once

#include "metala/base/ragged.h"
#include "metala/base/tensor.h"

namespace metala::embedding::cuda {

void forward(Ids ids, const Tensor& table, double scale, Tensor y);
void backward(Ids ids, const Tensor& dy, double scale, Tensor dtable, std::int32_t frozen_id);

}  // namespace metala::embedding::cuda
