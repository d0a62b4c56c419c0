#include "metala/device/cuda/matrix_product_cuda.h"

#include <cublasLt.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>

#include "metala/base/half.h"
#include "metala/base/profile.h"
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"

namespace metala::cuda {
namespace {

constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

void check_blas(cublasStatus_t status) {
  require(status == CUBLAS_STATUS_SUCCESS, "cublasLt: {}", cublasLtGetStatusString(status));
}

cudaDataType_t type_of(const Tensor& t) {
  require(t.dtype() == DType::f32 || is_half(t.dtype()),
          "cuda: a matrix product of {}; wanted f32, bf16 or f16", name_of(t.dtype()));
  if (t.dtype() == DType::f32) return CUDA_R_32F;
  return t.dtype() == DType::bf16 ? CUDA_R_16BF : CUDA_R_16F;
}

// cuBLASLt counts columns first, so a row-major matrix is its transpose there, and c = a b is
// computed as c^T = b^T a^T: the first factor is b.
struct Layout {
  cublasLtMatrixLayout_t handle = nullptr;
  explicit Layout(const Tensor& t) {
    check_blas(cublasLtMatrixLayoutCreate(&handle, type_of(t),
                                          static_cast<std::uint64_t>(t.size(1)),
                                          static_cast<std::uint64_t>(t.size(0)), t.stride(0)));
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(handle); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
};

struct Operation {
  cublasLtMatmulDesc_t handle = nullptr;
  Operation(bool first_transposed, bool second_transposed) {
    check_blas(cublasLtMatmulDescCreate(&handle, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const auto set = [&](cublasLtMatmulDescAttributes_t which, bool transposed) {
      const cublasOperation_t operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
      check_blas(cublasLtMatmulDescSetAttribute(handle, which, &operation, sizeof(operation)));
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, first_transposed);
    set(CUBLASLT_MATMUL_DESC_TRANSB, second_transposed);
  }
  ~Operation() { cublasLtMatmulDescDestroy(handle); }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
};

using Key = std::array<std::int64_t, 17>;

// The largest power of two, up to 256, that divides a matrix's address: algorithms rely on it.
std::uint32_t alignment_of(const Tensor& t) {
  const auto address = reinterpret_cast<std::uintptr_t>(t.raw());
  std::uint32_t alignment = 256;
  while (address % alignment != 0) alignment /= 2;
  return alignment;
}

// A product's operation, layouts and algorithm.
struct Plan {
  Operation operation;
  Layout first, second, result;
  cublasLtMatmulAlgo_t algorithm;

  Plan(cublasLtHandle_t blas, const Tensor& a, bool a_transposed, const Tensor& b,
       bool b_transposed, const Tensor& c)
      : operation(b_transposed, a_transposed), first(b), second(a), result(c) {
    cublasLtMatmulPreference_t preference = nullptr;
    check_blas(cublasLtMatmulPreferenceCreate(&preference));
    const std::size_t bytes = workspace_bytes;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &bytes, sizeof(bytes));
    const auto set_alignment = [&](cublasLtMatmulPreferenceAttributes_t which, const Tensor& t) {
      const std::uint32_t alignment = alignment_of(t);
      cublasLtMatmulPreferenceSetAttribute(preference, which, &alignment, sizeof(alignment));
    };
    set_alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b);
    set_alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a);
    set_alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c);
    set_alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c);
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(blas, operation.handle, first.handle, second.handle,
                                       result.handle, result.handle, preference, 1, &found, &count);
    cublasLtMatmulPreferenceDestroy(preference);
    require(status == CUBLAS_STATUS_SUCCESS && count > 0,
            "cublasLt: no algorithm for {} x {} into {}", a.shape(), b.shape(), c.shape());
    algorithm = found.algo;
  }
};

struct Blas {
  cublasLtHandle_t handle = nullptr;
  std::shared_ptr<void> workspace;  // its own: ops call products while they use the device's
  std::map<Key, std::unique_ptr<Plan>> plans;
};

Blas& blas_of(Device device) {
  static std::mutex mutex;
  static std::map<int, Blas> all;
  const std::scoped_lock lock(mutex);
  Blas& blas = all[device.index];
  if (blas.handle == nullptr) {
    check_blas(cublasLtCreate(&blas.handle));
    blas.workspace = memory_of(device).allocate(workspace_bytes);
  }
  return blas;
}

}  // namespace

void matrix_product(const Tensor& a, Transpose a_transposed, const Tensor& b,
                    Transpose b_transposed, const Tensor& c, const Tensor& addend) {
  const auto stream = enter("matrix product", {&a, &b, &c, &addend});
  if (c.count() == 0) return;
  // A plan is for an addend that lies in memory as c does.
  const bool like_c = !addend.defined() ||
                      (addend.stride(0) == c.stride(0) && alignment_of(addend) >= alignment_of(c));
  if (!like_c) {
    c.copy_from(addend);
    return matrix_product(a, a_transposed, b, b_transposed, c, c);
  }
  const bool ta = a_transposed == Transpose::yes;
  const bool tb = b_transposed == Transpose::yes;
  const profile::Scope scope("matrix products", 2.0 * static_cast<double>(c.count()) *
                                                    static_cast<double>(a.size(ta ? 0 : 1)));
  Blas& blas = blas_of(c.device());
  const Key key = {ta,
                   tb,
                   a.size(0),
                   a.size(1),
                   a.stride(0),
                   b.size(0),
                   b.size(1),
                   b.stride(0),
                   c.size(0),
                   c.size(1),
                   c.stride(0),
                   static_cast<int>(a.dtype()),
                   static_cast<int>(b.dtype()),
                   static_cast<int>(c.dtype()),
                   alignment_of(a),
                   alignment_of(b),
                   alignment_of(c)};
  auto& plan = blas.plans[key];
  if (plan == nullptr) plan = std::make_unique<Plan>(blas.handle, a, ta, b, tb, c);
  const float one = 1;
  const float keep = addend.defined() ? 1 : 0;
  const void* const added = addend.defined() ? addend.raw() : c.raw();
  check_blas(cublasLtMatmul(blas.handle, plan->operation.handle, &one, b.raw(), plan->first.handle,
                            a.raw(), plan->second.handle, &keep, added, plan->result.handle,
                            c.raw(), plan->result.handle, &plan->algorithm, blas.workspace.get(),
                            workspace_bytes, stream));
}

}  // namespace metala::cuda
