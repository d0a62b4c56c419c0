// A block for each row; a warp's and then the block's best are the largest value, at equal values
// the lowest id, so the order in which threads meet does not matter.
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/sample/sample_cuda.h"

namespace metala::sample::cuda {
namespace {

constexpr int threads = 1024;

struct Best {
  float value;
  std::int32_t id;

  // NaN beats every number and stays.
  __device__ void meet(float other, std::int32_t other_id) {
    const bool better = isnan(other) ? !isnan(value) || other_id < id
                                     : other > value || (other == value && other_id < id);
    if (!better) return;
    value = other;
    id = other_id;
  }
};

__device__ __forceinline__ Best best_of_warp(Best best) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) {
    const float value = __shfl_xor_sync(0xffffffffu, best.value, lane);
    const std::int32_t id = __shfl_xor_sync(0xffffffffu, best.id, lane);
    best.meet(value, id);
  }
  return best;
}

__global__ void __launch_bounds__(threads)
    choose(const float* logits, int vocabulary, std::int32_t* ids) {
  __shared__ Best of_warps[threads / 32];
  const float* row = logits + std::int64_t{blockIdx.x} * vocabulary;
  Best best = {-INFINITY, vocabulary};
  // Many loads at once: with few rows there is little else to hide their latency.
  constexpr int at_once = 16;
  for (int first = static_cast<int>(threadIdx.x); first < vocabulary; first += at_once * threads) {
    float values[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int at = first + i * threads;
      values[i] = at < vocabulary ? row[at] : -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < at_once; ++i) best.meet(values[i], first + i * threads);
  }
  best = best_of_warp(best);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = best_of_warp(of_warps[threadIdx.x]);
  if (threadIdx.x == 0) ids[blockIdx.x] = isfinite(best.value) ? best.id : -1;
}

}  // namespace

void greedy(const Tensor& logits, std::int32_t* ids) {
  const auto stream = metala::cuda::enter("sample", {&logits});
  if (logits.count() == 0) return;
  choose<<<static_cast<unsigned>(logits.size(0)), threads, 0, stream>>>(
      logits.data<float>(), static_cast<int>(logits.size(1)), ids);
  metala::cuda::check_launch("sample: greedy");
}

}  // namespace metala::sample::cuda
