// Norm and short convolution of one row by a block of 256 threads, four neighbouring channels at a
// time, in shared memory. Loops are kept as loops: a decoding step runs through all its kernels a
// few dozen times, and is fastest when their code together stays in the instruction cache.
#pragma once

#include "metala/device/cuda/vector.cuh"
#include "metala/ops/decode/decode_cuda.h"

namespace metala::decode::cuda {

constexpr int row_threads = 256;

struct NormArguments {
  const float* weight;  // null: root mean square
  const float* bias;
  float eps;
};

struct ConvArguments {
  const float* taps;  // null: no convolution
  const float* inputs;
  int taps_count;
};

inline NormArguments arguments(const Norm& n) {
  return {static_cast<const float*>(n.weight.raw()), static_cast<const float*>(n.bias.raw()),
          static_cast<float>(n.eps)};
}

inline ConvArguments arguments(const Conv& c) {
  return {static_cast<const float*>(c.taps.raw()), static_cast<const float*>(c.inputs.raw()),
          c.taps.defined() ? static_cast<int>(c.taps.size(1)) : 0};
}

constexpr int row_warps = row_threads / 32;

// The sum over the block, for every thread. `sums` has a place for each warp that nothing else uses
// between the barriers around, so that one barrier is enough.
__device__ __forceinline__ float sum_of_block(float x, float* sums) {
  x = metala::cuda::warp_sum(x);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < row_warps; ++warp) sum += sums[warp];
  return sum;
}

// What a row needs in shared memory: its values, and what the convolution makes of earlier tokens.
struct RowMemory {
  float4* x;     // [d / 4]
  float4* past;  // [d / 4] sums over past inputs; with a convolution only
  float4* tap;   // [d / 4] the tap of the token to come
  float* sums;   // of warps, twice
};

__host__ __device__ constexpr std::size_t row_bytes(std::int64_t width) {
  return sizeof(float) * (3 * static_cast<std::size_t>(width) + 2 * row_warps);
}

__device__ __forceinline__ RowMemory row_memory(unsigned char* memory, int width) {
  auto* const x = reinterpret_cast<float4*>(memory);
  const int fours = width / 4;
  return {x, x + fours, x + 2 * fours, reinterpret_cast<float*>(x + 3 * fours)};
}

// Calls f(four) for the thread's channels 4 four .. 4 four + 3.
template <class F>
__device__ __forceinline__ void each_four(int width, F f) {
#pragma unroll 1
  for (int four = static_cast<int>(threadIdx.x); four < width / 4; four += row_threads) f(four);
}

// One channel of the convolution, up to the token to come: the sum over past inputs, and its tap.
__device__ __noinline__ inline float2 past_of_any_taps(const float* taps, const float* inputs,
                                                       int count) {
  float sum = 0;
#pragma unroll 1
  for (int j = 0; j + 1 < count; ++j) sum += taps[j] * inputs[j + 1];
  return make_float2(sum, taps[count - 1]);
}

__device__ __forceinline__ float2 past_of_channel(const float* taps, const float* inputs,
                                                  int count) {
  if (count != 4) return past_of_any_taps(taps, inputs, count);
  const float4 t = *reinterpret_cast<const float4*>(taps);  // the released models'
  const float4 in = *reinterpret_cast<const float4*>(inputs);
  return make_float2(t.x * in.y + t.y * in.z + t.z * in.w, t.w);
}

// Needs nothing of the step.
__device__ __forceinline__ void load_past(const ConvArguments& conv, std::int64_t row, int width,
                                          const RowMemory& m) {
  const int count = conv.taps_count;
  const float* row_inputs = conv.inputs + row * width * count;
  float* past = reinterpret_cast<float*>(m.past);
  float* tap = reinterpret_cast<float*>(m.tap);
#pragma unroll 4
  for (int channel = static_cast<int>(threadIdx.x); channel < width; channel += row_threads) {
    const float2 both =
        past_of_channel(conv.taps + channel * count, row_inputs + channel * count, count);
    past[channel] = both.x;
    tap[channel] = both.y;
  }
  __syncthreads();
}

// Past the first-level cache, which does not see what other multiprocessors wrote while this
// kernel waited.
__device__ __forceinline__ float4 load_four(const float* from) {
  return __ldcg(reinterpret_cast<const float4*>(from));
}

__device__ __forceinline__ float4 scaled(float4 a, float r) {
  return make_float4(a.x * r, a.y * r, a.z * r, a.w * r);
}

__device__ __forceinline__ float4 fused_multiply_add(float4 a, float4 b, float4 c) {
  return make_float4(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y), fmaf(a.z, b.z, c.z),
                     fmaf(a.w, b.w, c.w));
}

// Reads the row and calls f(four, normed) for the thread's channels.
template <class F>
__device__ __forceinline__ void normed_row(const NormArguments& norm, const float* x, int width,
                                           const RowMemory& m, F f) {
  const float share = 1 / static_cast<float>(width);
  float sum = 0;
  each_four(width, [&](int four) {
    const float4 v = load_four(x + 4 * four);
    m.x[four] = v;
    sum += norm.weight == nullptr ? v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w
                                  : v.x + v.y + v.z + v.w;
  });
  float squares = sum_of_block(sum, m.sums) * share;
  float mean = 0;
  if (norm.weight != nullptr) {
    mean = squares;
    sum = 0;
    each_four(width, [&](int four) {
      float4 v = m.x[four];
      v = make_float4(v.x - mean, v.y - mean, v.z - mean, v.w - mean);
      m.x[four] = v;
      sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    });
    squares = sum_of_block(sum, m.sums + row_warps) * share;
  }
  const float r = rsqrtf(squares + norm.eps);
  each_four(width, [&](int four) {
    float4 v = scaled(m.x[four], r);
    if (norm.weight != nullptr) {
      v = fused_multiply_add(v, reinterpret_cast<const float4*>(norm.weight)[four],
                             reinterpret_cast<const float4*>(norm.bias)[four]);
    }
    f(four, v);
  });
}

__device__ __forceinline__ float silu(float x) {
  return __fdividef(x, 1 + __expf(-x));
}

// The convolution with its SiLU, of normed channels.
__device__ __forceinline__ float4 convolved(const RowMemory& m, int four, float4 normed) {
  const float4 v = fused_multiply_add(m.tap[four], normed, m.past[four]);
  return make_float4(silu(v.x), silu(v.y), silu(v.z), silu(v.w));
}

__device__ __forceinline__ void store_four(float4 v, metala::cuda::Bf16* to) {
  metala::cuda::store<4>(metala::cuda::Floats<4>{{v.x, v.y, v.z, v.w}}, to);
}

}  // namespace metala::decode::cuda
