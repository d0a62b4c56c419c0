// Tensor-core products of small tiles in shared memory, as instructions: from compute
// capability 8.0 on. Fragments are as PTX defines them for mma.m16n8k16 with bf16 operands and
// float32 sums.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace metala::cuda {

// A 16 x 16 operand (rows x k), a 16 x 8 one (k x columns), and the 16 x 8 sums. A thread's sums
// are rows lane/4 (0, 1) and lane/4 + 8 (2, 3), columns 2 (lane % 4) and the next.
struct FragmentA {
  std::uint32_t r[4];
};
struct FragmentB {
  std::uint32_t r[2];
};
struct Sums {
  float at[4];
};

__device__ __forceinline__ void multiply(Sums& c, const FragmentA& a, const FragmentB& b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c.at[0]), "+f"(c.at[1]), "+f"(c.at[2]), "+f"(c.at[3])
      : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
}

// Four 8 x 8 matrices; each lane gives the address of a row of 16 bytes.
__device__ __forceinline__ void load_matrices(std::uint32_t* r, const __nv_bfloat16* row) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(std::uint32_t* r,
                                                         const __nv_bfloat16* row) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

// A tile of bf16 in shared memory whose rows are 16 bytes longer than their contents: eight rows of
// one column of 16 bytes then lie in different banks. Or `swizzled`, for 32 or 64 columns: rows
// without gaps, whose pieces of 16 bytes change places from row to row to the same end, as
// warpgroup products want it (warpgroup.cuh); its address is a multiple of 1,024 bytes.
template <int columns, bool swizzled = false>
struct Tile {
  static_assert(!swizzled || columns == 32 || columns == 64);
  static constexpr int stride = swizzled ? columns : columns + 8;
  static constexpr int bytes(int rows) { return rows * stride * 2; }
  __nv_bfloat16* data;
  __device__ __nv_bfloat16* at(int row, int column) const {
    if constexpr (swizzled) column ^= (columns == 64 ? row % 8 : row / 2 % 4) * 8;
    return data + row * stride + column;
  }

  // Rows row .. row+15, k from `k`.
  __device__ FragmentA as_a(int row, int k) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    FragmentA a;
    load_matrices(a.r, at(row + lane % 16, k + lane / 16 * 8));
    return a;
  }
  // The tile's transpose: rows are its columns column .. column+15, k its rows from `k`.
  __device__ FragmentA transposed_as_a(int column, int k) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    FragmentA a;
    load_matrices_transposed(a.r, at(k + lane / 16 * 8 + lane % 8, column + lane / 8 % 2 * 8));
    return a;
  }
  // k are its rows from `k`, columns column .. column+15 in two fragments.
  __device__ void as_b(int k, int column, FragmentB* b) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    std::uint32_t r[4];
    load_matrices_transposed(r, at(k + lane % 16, column + lane / 16 * 8));
    b[0] = {{r[0], r[1]}};
    b[1] = {{r[2], r[3]}};
  }
  // The tile's transpose: columns are its rows row .. row+15 in two fragments, k its columns
  // k .. k+15.
  __device__ void rows_as_b(int row, int k, FragmentB* b) const {
    const FragmentA a = as_a(row, k);
    b[0] = {{a.r[0], a.r[2]}};
    b[1] = {{a.r[1], a.r[3]}};
  }
  // The tile's transpose: columns are its rows row .. row+7, k its columns k .. k+31 in two
  // fragments.
  __device__ void transposed_as_b(int row, int k, FragmentB* b) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    std::uint32_t r[4];
    load_matrices(r, at(row + lane % 8, k + lane / 8 * 8));
    b[0] = {{r[0], r[1]}};
    b[1] = {{r[2], r[3]}};
  }
};

__device__ __forceinline__ std::uint32_t packed(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(both);
}

// 16 bytes from global to shared memory, in the background; zeros if not `real`.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool real) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from),
               "r"(real ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int still_running>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(still_running) : "memory");
}

}  // namespace metala::cuda
