// cuBLASLt is looked for when it is needed, not when the program starts: one built with CUDA runs
// on the CPU where that library is not installed.
#pragma once

namespace metala::cuda {

// Throws Error in one line when the library is not found or lacks a function.
void require_cublas_lt();

}  // namespace metala::cuda
