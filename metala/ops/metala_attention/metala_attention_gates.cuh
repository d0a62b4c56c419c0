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

// S <- stay S + (change S + k v). Where little is lost the loss is taken off, so that a long-lived
// state does not drift; where much is lost what is kept is multiplied out.
struct Passage {
  float stay, change;
};

__device__ __forceinline__ Passage passage(Gate g) {
  return g.lose <= 0.5f ? Passage{1.0f, -g.lose} : Passage{0.0f, g.keep};
}

}  // namespace metala::metala_attention::cuda
