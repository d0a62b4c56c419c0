// A block for each row, packs of 16 bytes to a thread where rows allow it; with the exp activation
// the block first finds the row's maximum. The activations are the reference's own, in float32, but
// for silu, whose quotients are approximate.
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/exponentials.cuh"
#include "metala/device/cuda/packs.h"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/glu/glu_cuda.h"
#include "metala/ops/glu/glu_reference.h"

namespace metala::glu::cuda {
namespace {

using metala::cuda::Floats;
using metala::cuda::load;
using metala::cuda::store;
using metala::cuda::to_float;

constexpr int most_threads = 512;

template <class T>
struct Rows {
  T* data;
  std::int64_t stride;
  __device__ T* row() const { return data == nullptr ? nullptr : data + blockIdx.x * stride; }
};

template <class T>
Rows<T> rows(const Tensor& t) {
  return {static_cast<T*>(t.raw()), t.defined() ? t.stride(0) : 0};
}

template <class T>
__device__ float row_maximum(const T* in, int width) {
  __shared__ float shared[most_threads / 32];
  float most = -INFINITY;
  const int threads = static_cast<int>(blockDim.x);
  for (int i = static_cast<int>(threadIdx.x); i < width; i += threads) {
    most = fmaxf(most, to_float(in[i]));
  }
  most = metala::cuda::warp_max(most);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = most;
  __syncthreads();
  for (int warp = 0; warp < threads / 32; ++warp) most = fmaxf(most, shared[warp]);
  return most;
}

struct Activated {
  float value, slope;
};

template <Activation activation, class T>
__device__ __forceinline__ Activated activated(float x) {
  if constexpr (activation == Activation::silu) {
    const float s = metala::cuda::logistic<T>(x);  // 0 from x = -88 on, where x s is 0 too
    return {x * s, s * (1 + x * (1 - s))};
  } else {
    return {reference::value<float>(activation, x), reference::slope<float>(activation, x)};
  }
}

template <Activation activation, int n, class T>
__global__ void __launch_bounds__(most_threads)
    forward_row(Rows<const T> a, Rows<const T> b, Rows<T> y, int width) {
  const T* in = a.row();
  const T* gate = b.row();
  T* out = y.row();
  float origin = 0;
  if constexpr (activation == Activation::exp) origin = row_maximum(in, width);
  for (int at = static_cast<int>(threadIdx.x) * n; at < width;
       at += static_cast<int>(blockDim.x) * n) {
    Floats<n> x = load<n>(in + at);
#pragma unroll
    for (float& value : x.at) value = activated<activation, T>(value - origin).value;
    if (gate != nullptr) {
      const Floats<n> factor = load<n>(gate + at);
#pragma unroll
      for (int i = 0; i < n; ++i) x.at[i] *= factor.at[i];
    }
    store(x, out + at);
  }
}

template <Activation activation, int n, class T>
__global__ void __launch_bounds__(most_threads)
    backward_row(Rows<const T> a, Rows<const T> b, Rows<const T> dy, Rows<T> da, Rows<T> db,
                 int width, bool add, Rows<T> y) {
  const T* in = a.row();
  const T* gate = b.row();
  const T* gradient = dy.row();
  T* into_a = da.row();
  T* into_b = db.row();
  T* out = y.row();
  float origin = 0;
  if constexpr (activation == Activation::exp) origin = row_maximum(in, width);
  for (int at = static_cast<int>(threadIdx.x) * n; at < width;
       at += static_cast<int>(blockDim.x) * n) {
    const Floats<n> x = load<n>(in + at);
    const Floats<n> dout = load<n>(gradient + at);
    Floats<n> factor;
#pragma unroll
    for (float& one : factor.at) one = 1;
    if (gate != nullptr) factor = load<n>(gate + at);
    Floats<n> sum_a = {};
    Floats<n> sum_b = {};
    if (add) {
      sum_a = load<n>(into_a + at);
      if (into_b != nullptr) sum_b = load<n>(into_b + at);
    }
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const Activated act = activated<activation, T>(x.at[i] - origin);
      sum_a.at[i] += dout.at[i] * factor.at[i] * act.slope;
      sum_b.at[i] += dout.at[i] * act.value;
      factor.at[i] *= act.value;
    }
    if (out != nullptr) store(factor, out + at);
    store(sum_a, into_a + at);
    if (into_b != nullptr) store(sum_b, into_b + at);
  }
}

// f.template operator()<activation>() for the one given, so that each has a kernel of its own.
template <class F>
void with_activation(Activation activation, F&& f) {
  switch (activation) {
    case Activation::silu:
      return f.template operator()<Activation::silu>();
    case Activation::gelu:
      return f.template operator()<Activation::gelu>();
    case Activation::relu:
      return f.template operator()<Activation::relu>();
    case Activation::elu:
      return f.template operator()<Activation::elu>();
    case Activation::sigmoid:
      return f.template operator()<Activation::sigmoid>();
    case Activation::leak:
      return f.template operator()<Activation::leak>();
    case Activation::one_plus_elu:
      return f.template operator()<Activation::one_plus_elu>();
    case Activation::two_plus_elu:
      return f.template operator()<Activation::two_plus_elu>();
    case Activation::sine:
      return f.template operator()<Activation::sine>();
    case Activation::exp:
      return f.template operator()<Activation::exp>();
  }
}

}  // namespace

void forward(Activation activation, const Tensor& a, const Tensor& b, Tensor y) {
  const auto stream = metala::cuda::enter("glu", {&a, &b, &y});
  if (a.count() == 0) return;
  const bool packed = metala::cuda::in_packs({&a, &b, &y});
  metala::cuda::with_type(a.dtype(), [&]<class T>(T) {
    with_activation(activation, [&]<Activation chosen>() {
      metala::cuda::with_pack<T>(packed, [&]<int n>() {
        const unsigned threads = metala::cuda::threads_for(a.size(1) / n);
        forward_row<chosen, n, T><<<static_cast<unsigned>(a.size(0)), threads, 0, stream>>>(
            rows<const T>(a), rows<const T>(b), rows<T>(y), static_cast<int>(a.size(1)));
      });
    });
  });
  metala::cuda::check_launch("glu");
}

void backward(Activation activation, const Tensor& a, const Tensor& b, const Tensor& dy, Tensor da,
              Tensor db, Write write, Tensor y) {
  const auto stream = metala::cuda::enter("glu", {&a, &b, &dy, &da, &db, &y});
  if (a.count() == 0) return;
  const bool packed = metala::cuda::in_packs({&a, &b, &dy, &da, &db, &y});
  metala::cuda::with_type(a.dtype(), [&]<class T>(T) {
    with_activation(activation, [&]<Activation chosen>() {
      metala::cuda::with_pack<T>(packed, [&]<int n>() {
        const unsigned threads = metala::cuda::threads_for(a.size(1) / n);
        backward_row<chosen, n, T><<<static_cast<unsigned>(a.size(0)), threads, 0, stream>>>(
            rows<const T>(a), rows<const T>(b), rows<const T>(dy), rows<T>(da), rows<T>(db),
            static_cast<int>(a.size(1)), write == Write::accumulate, rows<T>(y));
      });
    });
  });
  metala::cuda::check_launch("glu, backward");
}

}  // namespace metala::glu::cuda
