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

// sigmoid(x) - 1/2 to full precision.
__device__ __forceinline__ float centred_sigmoid(float x) {
  return 0.5f * tanhf(0.5f * x);
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

__device__ __forceinline__ float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// For bf16, a decay as the bits it costs, -log2 of it, at most 13: what is forgotten to less than
// 2^-13 lies below the rounding of what is kept beside it, and sums of bits over a chunk stay exact
// enough to be subtracted. lose does not know the limit. Both to a relative 2e-5.
struct BitGate {
  float bits, lose;
  float tail;  // e^-|u|
  float keep;  // 2^-bits

  // sigmoid(-u)
  __device__ __forceinline__ float closed(float u) const {
    return __fdividef(u < 0 ? 1.0f : tail, 1.0f + tail);
  }
};
constexpr float most_bits = 13;
constexpr float least_keep = 1.0f / 8192;  // 2^-most_bits
constexpr float open_gate = 1e30f;         // a logit that costs no bits

// log2(1 + e) for e in [0, 1], to a relative 9e-6: a polynomial, since the special-function unit,
// an eighth as fast, has more to do than the others.
__device__ __forceinline__ float log2_one_plus(float e) {
  float sum = -0.0344359066f;
  sum = fmaf(sum, e, 0.146032889f);
  sum = fmaf(sum, e, -0.303036205f);
  sum = fmaf(sum, e, 0.469174066f);
  sum = fmaf(sum, e, -0.720426165f);
  sum = fmaf(sum, e, 1.44268292f);
  return sum * e;
}

__device__ __forceinline__ BitGate bit_gate(float u, float inverse_temperature) {
  constexpr float log2_e = 1.44269504f;
  constexpr float ln_2 = 0.693147181f;
  const float tail = exp2f_fast(-log2_e * fabsf(u));
  const float bits = fmaf(log2_e, fmaxf(-u, 0.0f), log2_one_plus(tail)) * inverse_temperature;
  const float keep = exp2f_fast(-bits);
  // Where gates remember, 1 - keep would cancel.
  const float lose = bits < 1.0f / 96 ? bits * fmaf(-0.5f * ln_2 * ln_2, bits, ln_2) : 1 - keep;
  return {fminf(bits, most_bits), lose, tail, fmaxf(keep, least_keep)};
}

// What a decay is of 2^-bits: less than 1 only for one that costs more than most_bits.
__device__ __forceinline__ float uncounted(float u, float inverse_temperature) {
  const float keep = gate(u, inverse_temperature).keep;
  return fminf(keep * exp2f(most_bits), 1.0f);
}

__device__ __forceinline__ float fast_sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + exp2f_fast(-1.44269504f * x));
}

// To a relative 5e-4, a quarter of what bf16 rounds.
__device__ __forceinline__ float fast_centred_sigmoid(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(0.5f * x));
  return 0.5f * y;
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
