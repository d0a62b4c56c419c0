// From a gate's logit to its decay on the GPU, and how a state crosses a token.
//
//   g = logsigmoid(u) / temperature        keep = e^g        lose = 1 - e^g
//
// keep and lose each have full relative precision, for every finite u.
#pragma once

#include "metala/device/cuda/vector.cuh"

namespace metala::metala_attention::cuda {

struct Gate {
  float keep, lose;
};

__device__ __forceinline__ Gate gate(float u, float inverse_temperature) {
  const float log_sigmoid = fminf(u, 0.0f) - log1pf(expf(-fabsf(u)));
  const float g = log_sigmoid * inverse_temperature;
  return {expf(g), -expm1f(g)};
}

__device__ __forceinline__ float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x < 0 ? e : 1.0f) / (1.0f + e);
}

__device__ __forceinline__ float exp2f_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float log2f_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The same to a relative 2e-5 each, for bf16. For every finite u: e and its logarithm may be
// infinite, and the decay is then 0.
__device__ __forceinline__ Gate fast_gate(float u, float inverse_temperature) {
  const float e = exp2f_fast(-1.44269504f * u);
  const float logarithm =  // of 1 + e; by its series where the sum would round e away
      e < 1.0f / 64 ? e * (1 - e * (0.5f - e * (1.0f / 3))) : 0.693147181f * log2f_fast(1 + e);
  const float x = logarithm * inverse_temperature;
  const float keep = exp2f_fast(-1.44269504f * x);
  // Where gates remember, 1 - keep would cancel.
  const float lose = x < 1.0f / 16 ? x * (1 - x * (0.5f - x * (1.0f / 6))) : 1 - keep;
  return {keep, lose};
}

__device__ __forceinline__ float fast_sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + exp2f_fast(-1.44269504f * x));
}

// S <- stay S + (change S + k v). Where little is lost the loss is taken off, so that a long-lived
// state does not drift; where much is lost what is kept is multiplied out.
struct Passage {
  float stay, change;
};

__device__ __forceinline__ Passage passage(Gate g) {
  return g.lose <= 0.5f ? Passage{1.0f, -g.lose} : Passage{0.0f, g.keep};
}

}  // namespace metala::metala_attention::cuda
