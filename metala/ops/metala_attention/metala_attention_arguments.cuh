// The op's arguments as kernels take them.
#pragma once

#include "metala/device/cuda/vector.cuh"
#include "metala/ops/metala_attention/metala_attention.h"
#include "metala/ops/metala_attention/metala_attention_gates.cuh"

namespace metala::metala_attention::cuda {

constexpr float norm_epsilon = 1e-5f;

// A token matrix; no data: absent.
template <class T>
struct Rows {
  T* data = nullptr;
  std::int64_t stride = 0;
  __device__ T* row(std::int64_t t) const { return data + t * stride; }
};

template <class T>
Rows<T> rows(const Tensor& t) {
  return {static_cast<T*>(t.raw()), t.defined() ? t.stride(0) : 0};
}

template <class T>
struct Arguments {
  Rows<const T> q, u, k, v, z;
  const float* aug;
  const float* fixed_decay;
  const float* before;
  Rows<T> o, mixed;  // of the forward pass
  float* after;
  const std::int64_t* offsets;
  int heads, key_width, value_width;
  float inverse_temperature, scale;

  // The logit of a channel's gate; without decay there is none.
  __device__ float logit_at(std::int64_t t, int channel) const {
    return u.data != nullptr ? metala::cuda::to_float(u.row(t)[channel]) : fixed_decay[channel];
  }
  __device__ bool decays() const { return u.data != nullptr || fixed_decay != nullptr; }
  __device__ Gate gate_at(std::int64_t t, int channel) const {
    return decays() ? gate(logit_at(t, channel), inverse_temperature) : Gate{1.0f, 0.0f};
  }
  // k of a channel whose gate is known.
  __device__ float key_at(std::int64_t t, int channel, Gate g) const {
    return k.data != nullptr ? metala::cuda::to_float(k.row(t)[channel]) : g.lose;
  }
};

// All but o, mixed, after.
template <class T>
Arguments<T> arguments(const Options& options, const Inputs& in, Offsets offsets) {
  Arguments<T> p = {};
  p.q = rows<const T>(in.q);
  p.u = rows<const T>(in.u);
  p.k = rows<const T>(in.k);
  p.v = rows<const T>(in.v);
  p.z = rows<const T>(in.z);
  p.aug = static_cast<const float*>(in.aug.raw());
  p.fixed_decay = static_cast<const float*>(in.fixed_decay.raw());
  p.before = static_cast<const float*>(in.before.raw());
  p.offsets = offsets.there();
  p.heads = static_cast<int>(options.heads);
  p.key_width = static_cast<int>(in.q.size(1) / options.heads);
  p.value_width = static_cast<int>(in.v.size(1) / options.heads);
  p.inverse_temperature = static_cast<float>(1 / options.temperature);
  p.scale = static_cast<float>(options.scale);
  return p;
}

}  // namespace metala::metala_attention::cuda
