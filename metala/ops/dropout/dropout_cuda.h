// The CUDA form: f32 or bf16, with the CPU's mask. Arguments are checked before they come here.
#pragma once

#include "metala/ops/dropout/dropout.h"

namespace metala::dropout::cuda {

// y = or += what `mask` keeps of x.
void apply(const Mask& mask, const Tensor& x, Tensor y, bool accumulate);

}  // namespace metala::dropout::cuda
