// Kernels that start while the one before them in the stream still runs (compute capability 9.0 on;
// before it they start in turn). What a kernel does ahead of `await_previous`, such as fetching
// weights, overlaps with the end of the one before.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "metala/device/cuda/cuda_error.h"

namespace metala::cuda {

// The next kernel of the stream may start; it still has to await this one.
__device__ __forceinline__ void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Until the kernel before has ended and its writes are seen, and hence those of all before it:
// every kernel launched early must call this in each of its threads, and touch nothing that the
// others write, or read what they still read and it writes, ahead of it.
__device__ __forceinline__ void await_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// A kernel that calls `await_previous`, with `shared` bytes of dynamic shared memory, in clusters
// of neighbouring blocks.
template <class... P, class... A>
void launch_early_in_clusters(void (*kernel)(P...), dim3 grid, unsigned cluster, unsigned threads,
                              std::size_t shared, cudaStream_t stream, A&&... arguments) {
  cudaFuncAttributes code;
  check(cudaFuncGetAttributes(&code, kernel), "a kernel's attributes");
  if (code.sharedSizeBytes + shared > 48 * 1024) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)),
          "a kernel's shared memory");
  }
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  // Code made for older GPUs has no instruction to await with.
  if (code.ptxVersion >= 90) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {cluster, 1, 1};
  }
  cudaLaunchConfig_t launch = {};
  launch.gridDim = grid;
  launch.blockDim = dim3(threads);
  launch.dynamicSmemBytes = shared;
  launch.stream = stream;
  launch.attrs = attributes;
  launch.numAttrs = count;
  check(cudaLaunchKernelEx(&launch, kernel, std::forward<A>(arguments)...), "launching a kernel");
}

template <class... P, class... A>
void launch_early(void (*kernel)(P...), dim3 grid, unsigned threads, std::size_t shared,
                  cudaStream_t stream, A&&... arguments) {
  launch_early_in_clusters(kernel, grid, 1, threads, shared, stream, std::forward<A>(arguments)...);
}

}  // namespace metala::cuda
