// CUDA's error codes as one-line Errors. Without fmt, so that kernels can include it.
#pragma once

#include <cuda_runtime_api.h>

namespace metala::cuda {

void check(cudaError_t status, const char* what);

// After a kernel's launch: what was wrong with the launch itself.
void check_launch(const char* kernel);

}  // namespace metala::cuda
