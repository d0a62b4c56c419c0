// Every function of cuBLASLt that metala calls, defined here to hand over to the library's own. One
// that is missing below fails to link.
#include <cublasLt.h>
#include <dlfcn.h>

#include <string>

#include "metala/base/error.h"
#include "metala/device/cuda/cublas_lt.h"

namespace {

void* open_library() {
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  for (const std::string& folder : {std::string(), std::string(METALA_CUDA_LIBRARIES "/"),
                                    std::string("/usr/local/cuda/lib64/")}) {
    if (void* library = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  }
  metala::fail(
      "cuda: {} is not found; install CUDA {}'s cuBLAS, name its folder in LD_LIBRARY_PATH, or run "
      "with --device cpu",
      name, CUBLAS_VER_MAJOR);
}

void* address_of(const char* function) {
  static void* const library = open_library();
  void* address = dlsym(library, function);
  metala::require(address != nullptr,
                  "cuda: cuBLASLt has no {}; this build needs version {}.{} or newer", function,
                  CUBLAS_VER_MAJOR, CUBLAS_VER_MINOR);
  return address;
}

}  // namespace

// Looked up once for each function.
#define HAND_OVER(function, ...)                                                         \
  static auto* const own = reinterpret_cast<decltype(&function)>(address_of(#function)); \
  return own(__VA_ARGS__)

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  HAND_OVER(cublasLtCreate, handle);
}

const char* cublasLtGetStatusString(cublasStatus_t status) {
  HAND_OVER(cublasLtGetStatusString, status);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t stride) {
  HAND_OVER(cublasLtMatrixLayoutCreate, layout, type, rows, columns, stride);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  HAND_OVER(cublasLtMatrixLayoutDestroy, layout);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
  HAND_OVER(cublasLtMatmulDescCreate, operation, compute, scale);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  HAND_OVER(cublasLtMatmulDescDestroy, operation);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                              cublasLtMatmulDescAttributes_t which,
                                              const void* value, size_t bytes) {
  HAND_OVER(cublasLtMatmulDescSetAttribute, operation, which, value, bytes);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  HAND_OVER(cublasLtMatmulPreferenceCreate, preference);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  HAND_OVER(cublasLtMatmulPreferenceDestroy, preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t which,
                                                    const void* value, size_t bytes) {
  HAND_OVER(cublasLtMatmulPreferenceSetAttribute, preference, which, value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
                                              cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t found[], int* count) {
  HAND_OVER(cublasLtMatmulAlgoGetHeuristic, handle, operation, a, b, c, d, preference, wanted,
            found, count);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t bytes,
                              cudaStream_t stream) {
  HAND_OVER(cublasLtMatmul, handle, operation, alpha, a, a_layout, b, b_layout, beta, c, c_layout,
            d, d_layout, algorithm, workspace, bytes, stream);
}

}  // extern "C"

namespace metala::cuda {

void require_cublas_lt() {
  address_of("cublasLtMatmul");
}

}  // namespace metala::cuda
