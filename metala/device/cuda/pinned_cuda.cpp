#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/pinned.h"

namespace metala::cuda {

std::shared_ptr<void> pinned_memory(Device device, std::size_t bytes) {
  check(cudaSetDevice(device.index), "cuda: choosing the GPU");
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, bytes == 0 ? 1 : bytes, cudaHostAllocMapped | cudaHostAllocPortable),
        "cuda: allocating memory that the CPU and the GPU share");
  return {memory, [](void* p) { cudaFreeHost(p); }};
}

}  // namespace metala::cuda
