// What happens to a token alone, there and back: a warp has a head's row, `most` values to a lane.
#pragma once

#include "metala/device/cuda/vector.cuh"
#include "metala/ops/metala_attention/metala_attention_arguments.cuh"

namespace metala::metala_attention::cuda {

// From mixed values to normalised ones; returns the inverse deviation. exists(i): whether the
// lane's i-th value lies in the row; one that does not is zero and stays so. share = 1 / D.
//
// Values may be alike but for small deviations, where the rounding of their mean would show.
// Centred they are exact, and their own mean tells what the first one missed. (What bf16 rounds is
// more.)
template <class T, int most, class Exists>
__device__ __forceinline__ float normalise(float (&c)[most], float share, Exists exists) {
  constexpr int passes = std::is_same_v<T, float> ? 2 : 1;
#pragma unroll
  for (int pass = 0; pass < passes; ++pass) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < most; ++i) sum += c[i];
    const float mean = metala::cuda::warp_sum(sum) * share;
#pragma unroll
    for (int i = 0; i < most; ++i) c[i] = exists(i) ? c[i] - mean : 0.0f;
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < most; ++i) squares += c[i] * c[i];
  const float r = rsqrtf(metala::cuda::warp_sum(squares) * share + norm_epsilon);
#pragma unroll
  for (int i = 0; i < most; ++i) c[i] *= r;
  return r;
}

// sum_i q_i k_i aug_i of a head, for all lanes; 0 without augmentation.
template <class T>
__device__ __forceinline__ float augmentation_score(const Arguments<T>& p, std::int64_t t,
                                                    int head) {
  if (p.aug == nullptr) return 0;
  float score = 0;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < p.key_width; i += 32) {
    const int channel = head * p.key_width + i;
    const float k = p.key_at(t, channel, p.gate_at(t, channel));
    score += metala::cuda::to_float(p.q.row(t)[channel]) * k * p.aug[channel];
  }
  return metala::cuda::warp_sum(score);
}

}  // namespace metala::metala_attention::cuda
