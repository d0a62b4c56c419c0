// The CUDA form: table f32 or bf16, y f32 or bf16. Ids must be mirrored on the GPU; ids outside the
// table, which only a kernel can have written there, give NaN.
#pragma once

#include "metala/base/ragged.h"
#include "metala/base/tensor.h"

namespace metala::embedding::cuda {

void forward(Ids ids, const Tensor& table, double scale, Tensor y);

}  // namespace metala::embedding::cuda
