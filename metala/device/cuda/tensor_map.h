// What the copy engine has to know of a matrix (bulk_copy.cuh).
#pragma once

#include <cuda.h>

#include "metala/base/tensor.h"

namespace metala::cuda {

// Tiles of `rows` (at most 256) by 64 columns of a bf16 matrix whose rows start at multiples of 16
// bytes, laid out in shared memory as Tile<64, true> (mma.cuh). A kernel takes it by value, as a
// __grid_constant__.
CUtensorMap map_of_tiles(const Tensor& matrix, int rows);

}  // namespace metala::cuda
