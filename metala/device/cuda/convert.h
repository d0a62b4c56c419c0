// Converting floating-point numbers on the GPU. `width` elements of each of `count` rows, which are
// a pitch of bytes apart. Types: f32, bf16, f16.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "metala/base/dtype.h"

namespace metala::cuda {

void convert(void* to, std::size_t to_pitch, DType to_type, const void* from,
             std::size_t from_pitch, DType from_type, std::size_t width, std::size_t count,
             cudaStream_t);

// Some kernel of this build, to ask whether it has code for a GPU.
const void* any_kernel();

}  // namespace metala::cuda
