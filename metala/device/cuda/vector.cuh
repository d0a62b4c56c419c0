// What kernels share: numbers of each type as float, 16-byte accesses, sums over a warp or a block.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "metala/base/dtype.h"

namespace metala::cuda {

using Bf16 = __nv_bfloat16;
using F16 = __half;

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(Bf16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ float to_float(F16 x) {
  return __half2float(x);
}

template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else if constexpr (std::is_same_v<T, Bf16>) {
    return __float2bfloat16_rn(x);
  } else {
    return __float2half_rn(x);
  }
}

// 16 bytes of T, loaded and stored in one instruction; the address must be a multiple of 16.
template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / static_cast<int>(sizeof(T));
  T at[size];
};

// n neighbours of a row as floats, loaded and stored in one access: addresses are multiples of n
// elements.
template <int n>
struct Floats {
  float at[n];
};

template <class T, int n>
struct alignas(n * sizeof(T)) Few {
  T at[n];
};

template <int n, class T>
__device__ __forceinline__ Floats<n> load(const T* from) {
  const auto few = *reinterpret_cast<const Few<T, n>*>(from);
  Floats<n> floats;
#pragma unroll
  for (int i = 0; i < n; ++i) floats.at[i] = to_float(few.at[i]);
  return floats;
}

template <int n, class T>
__device__ __forceinline__ void store(const Floats<n>& floats, T* to) {
  Few<T, n> few;
#pragma unroll
  for (int i = 0; i < n; ++i) few.at[i] = from_float<T>(floats.at[i]);
  *reinterpret_cast<Few<T, n>*>(to) = few;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}

// Sums of n numbers, a power of two, over the n lanes whose numbers differ in the bits distance,
// distance / 2, ..., distance / (n / 2). Each ends with one of the sums, x[0]; returns which.
template <int n>
__device__ __forceinline__ int spread_sums(float (&x)[n], int distance) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int which = 0;
#pragma unroll
  for (int half = n / 2; half > 0; half /= 2, distance /= 2) {
    const bool high = (lane & distance) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float given = high ? x[i] : x[i + half];
      x[i] = (high ? x[i + half] : x[i]) + __shfl_xor_sync(0xffffffffu, given, distance);
    }
    if (high) which += half;
  }
  return which;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
  return x;
}

// The sum over a block of at most 1,024 threads, a multiple of 32; every thread gets it. `shared`
// has room for 33 floats and is free again when this returns.
__device__ __forceinline__ float block_sum(float x, float* shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  x = warp_sum(x);
  __syncthreads();
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  if (warp == 0) {
    const float total = warp_sum(lane < warps ? shared[lane] : 0.0f);
    if (lane == 0) shared[32] = total;
  }
  __syncthreads();
  return shared[32];
}

// Calls f(T{}) with the kernel's type for a DType: float, Bf16 or F16.
template <class F>
void with_type(DType type, F&& f) {
  switch (type) {
    case DType::bf16:
      return f(Bf16());
    case DType::f16:
      return f(F16());
    default:
      return f(float());
  }
}

}  // namespace metala::cuda
