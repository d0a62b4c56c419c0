// The CUDA form: x, y, dy, dx f32 or bf16; weight, dweight and states f32. Arguments are checked
// before they come here; offsets must be mirrored on the GPU.
#pragma once

#include "metala/base/ragged.h"
#include "metala/base/tensor.h"
#include "metala/base/write.h"

namespace metala::short_conv::cuda {

void forward(const Tensor& x, const Tensor& weight, Offsets offsets, const Tensor& before, Tensor y,
             Tensor after);
void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, Offsets offsets,
              const Tensor& before, const Tensor& dafter, Tensor dx, Tensor dweight, Tensor dbefore,
              Write dx_write);

}  // namespace metala::short_conv::cuda
