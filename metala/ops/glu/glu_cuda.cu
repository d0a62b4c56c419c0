// Element by element, a block for each row; with the exp activation the block first finds the
// row's maximum. The activations are the reference's own, in float32.
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/glu/glu_cuda.h"
#include "metala/ops/glu/glu_reference.h"

namespace metala::glu::cuda {
namespace {

using metala::cuda::from_float;
using metala::cuda::to_float;

constexpr int threads = 256;

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
  __shared__ float shared[32];
  float most = -INFINITY;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += threads) {
    most = fmaxf(most, to_float(in[i]));
  }
  most = metala::cuda::warp_max(most);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = most;
  __syncthreads();
  for (int warp = 0; warp < threads / 32; ++warp) most = fmaxf(most, shared[warp]);
  return most;
}

template <Activation activation, class T>
__global__ void __launch_bounds__(threads)
    forward_row(Rows<const T> a, Rows<const T> b, Rows<T> y, int width) {
  const T* in = a.row();
  const T* gate = b.row();
  T* out = y.row();
  float origin = 0;
  if constexpr (activation == Activation::exp) origin = row_maximum(in, width);
  for (int i = static_cast<int>(threadIdx.x); i < width; i += threads) {
    const float act = reference::value<float>(activation, to_float(in[i]) - origin);
    out[i] = from_float<T>(gate == nullptr ? act : act * to_float(gate[i]));
  }
}

template <Activation activation, class T>
__global__ void __launch_bounds__(threads)
    backward_row(Rows<const T> a, Rows<const T> b, Rows<const T> dy, Rows<T> da, Rows<T> db,
                 int width) {
  const T* in = a.row();
  const T* gate = b.row();
  const T* gradient = dy.row();
  T* into_a = da.row();
  T* into_b = db.row();
  float origin = 0;
  if constexpr (activation == Activation::exp) origin = row_maximum(in, width);
  for (int i = static_cast<int>(threadIdx.x); i < width; i += threads) {
    const float x = to_float(in[i]) - origin;
    const float dout = to_float(gradient[i]);
    const float through = gate == nullptr ? dout : dout * to_float(gate[i]);
    into_a[i] =
        from_float<T>(to_float(into_a[i]) + through * reference::slope<float>(activation, x));
    if (into_b != nullptr) {
      into_b[i] =
          from_float<T>(to_float(into_b[i]) + dout * reference::value<float>(activation, x));
    }
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
  metala::cuda::with_type(a.dtype(), [&]<class T>(T) {
    with_activation(activation, [&]<Activation chosen>() {
      forward_row<chosen, T><<<static_cast<unsigned>(a.size(0)), threads, 0, stream>>>(
          rows<const T>(a), rows<const T>(b), rows<T>(y), static_cast<int>(a.size(1)));
    });
  });
  metala::cuda::check_launch("glu");
}

void backward(Activation activation, const Tensor& a, const Tensor& b, const Tensor& dy, Tensor da,
              Tensor db) {
  const auto stream = metala::cuda::enter("glu", {&a, &b, &dy, &da, &db});
  if (a.count() == 0) return;
  metala::cuda::with_type(a.dtype(), [&]<class T>(T) {
    with_activation(activation, [&]<Activation chosen>() {
      backward_row<chosen, T><<<static_cast<unsigned>(a.size(0)), threads, 0, stream>>>(
          rows<const T>(a), rows<const T>(b), rows<const T>(dy), rows<T>(da), rows<T>(db),
          static_cast<int>(a.size(1)));
    });
  });
  metala::cuda::check_launch("glu, backward");
}

}  // namespace metala::glu::cuda
