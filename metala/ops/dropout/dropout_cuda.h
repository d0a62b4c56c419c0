// The CUDA form: f32, bf16 or f16, with the CPU's mask. Arguments are checked before they come
// here; offsets and origins are mirrored on the GPU.
#pragma once

#include "metala/ops/dropout/dropout.h"

namespace metala::dropout::cuda {

// y = or += what `mask` keeps of x.
void apply(const Mask& mask, const Tensor& x, Tensor y, const Rows&, bool accumulate);

}  // namespace metala::dropout::cuda
