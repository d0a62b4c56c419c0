#include "metala/device/cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include "metala/device/cuda/cuda_error.h"

namespace metala::cuda {
namespace {

// The driver's function, found at run time so that nothing links with the driver.
auto encoder() {
  static const auto encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result = {};
#if CUDART_VERSION >= 12050
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                           cudaEnableDefault, &result),
          "cuda: looking for cuTensorMapEncodeTiled");
#else
    check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result),
          "cuda: looking for cuTensorMapEncodeTiled");
#endif
    require(result == cudaDriverEntryPointSuccess && found != nullptr,
            "cuda: the driver has no cuTensorMapEncodeTiled; wanted that of CUDA 12");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  }();
  return encode;
}

}  // namespace

CUtensorMap map_of_tiles(const Tensor& matrix, int rows) {
  CUtensorMap map = {};
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(matrix.size(1)),
                              static_cast<cuuint64_t>(matrix.size(0))};
  const cuuint64_t stride[] = {2 * static_cast<cuuint64_t>(matrix.stride(0))};
  const cuuint32_t tile[] = {64, static_cast<cuuint32_t>(rows)};
  const cuuint32_t every[] = {1, 1};
  const CUresult status =
      encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, matrix.raw(), sizes, stride, tile, every,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  require(status == CUDA_SUCCESS, "cuda: mapping tiles of {} by 64 of a matrix {}: error {}", rows,
          matrix.shape(), static_cast<int>(status));
  return map;
}

}  // namespace metala::cuda
