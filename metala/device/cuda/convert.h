// Copying, converting and zeroing numbers on the GPU, in `count` rows that are a pitch of bytes apart.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "metala/base/dtype.h"

namespace metala::cuda {

// `width` elements of each row. Types: f32, bf16, f16.
void convert(void* to, std::size_t to_pitch, DType to_type, const void* from,
             std::size_t from_pitch, DType from_type, std::size_t width, std::size_t count,
             cudaStream_t);

// `width` bytes of each row become 0. cudaMemset2DAsync takes a microsecond for each row.
void zero(void* to, std::size_t pitch, std::size_t width, std::size_t count, cudaStream_t);

// `width` bytes of each row, on one GPU.
void copy(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
          std::size_t width, std::size_t count, cudaStream_t);

// Some kernel of this build, to ask whether it has code for a GPU.
const void* any_kernel();

}  // namespace metala::cuda
