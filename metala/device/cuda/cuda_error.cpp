#include "metala/device/cuda/cuda_error.h"

#include "metala/base/error.h"

namespace metala::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the next call starts clean
  fail("{}: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status));
}

void check_launch(const char* kernel) {
  check(cudaGetLastError(), kernel);
}

}  // namespace metala::cuda
