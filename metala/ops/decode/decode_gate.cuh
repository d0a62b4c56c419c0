// What becomes of sums: where they go, and the channel mixer's activation and gate.
#pragma once

#include "metala/device/cuda/vector.cuh"
#include "metala/ops/decode/decode_rows.cuh"
#include "metala/ops/glu/glu_reference.h"

namespace metala::decode::cuda {

enum class Into { write, add, gate };

struct GateArguments {
  glu::Activation activation;
  bool paired;         // with a second product
  const float* bias1;  // null: none
  const float* bias2;
};

inline GateArguments arguments(const Gated& g) {
  return {g.activation, g.weight2.defined(), static_cast<const float*>(g.bias1.raw()),
          static_cast<const float*>(g.bias2.raw())};
}

// Any activation but SiLU, out of the way of the instruction cache.
__device__ __noinline__ inline float activated(glu::Activation activation, float a) {
  return glu::reference::value<float>(activation, a);
}

__device__ __forceinline__ float gated(const GateArguments& gate, int column, float a, float b) {
  if (gate.bias1 != nullptr) a += gate.bias1[column];
  a = gate.activation == glu::Activation::silu ? silu(a) : activated(gate.activation, a);
  if (!gate.paired) return a;
  if (gate.bias2 != nullptr) b += gate.bias2[column];
  return a * b;
}

// Four columns from `column` on.
__device__ __forceinline__ float4 gated(const GateArguments& gate, int column, float4 a, float4 b) {
  return make_float4(gated(gate, column, a.x, b.x), gated(gate, column + 1, a.y, b.y),
                     gated(gate, column + 2, a.z, b.z), gated(gate, column + 3, a.w, b.w));
}

}  // namespace metala::decode::cuda
