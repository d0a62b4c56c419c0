#include <cuda_runtime_api.h>

#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/fetch.h"

namespace metala::cuda {

void fetch(void* to, const void* from, std::size_t bytes, Device device) {
  check(cudaSetDevice(device.index), "cuda");
  // Another thread may be recording a graph meanwhile; this one's calls are not part of it.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  check(cudaThreadExchangeStreamCaptureMode(&mode), "cuda: copying aside");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cuda: copying aside");
  cudaError_t status = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream);
  if (status == cudaSuccess) status = cudaStreamSynchronize(stream);
  cudaStreamDestroy(stream);
  cudaThreadExchangeStreamCaptureMode(&mode);
  check(status, "cuda: copying aside");
}

}  // namespace metala::cuda
