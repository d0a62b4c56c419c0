// A block for each row, packs of 16 bytes to a thread where rows allow it; the second pass finds
// the row in the first-level cache.
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/packs.h"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/rms_norm/rms_norm_cuda.h"

namespace metala::rms_norm::cuda {
namespace {

using metala::cuda::block_sum;
using metala::cuda::Floats;
using metala::cuda::load;
using metala::cuda::store;

constexpr int most_threads = 512;

// Calls f(column) for the columns of a thread's packs of n.
template <int n, class F>
__device__ __forceinline__ void each_pack(int width, F f) {
  for (int at = static_cast<int>(threadIdx.x) * n; at < width;
       at += static_cast<int>(blockDim.x) * n) {
    f(at);
  }
}

template <int n, class T>
__global__ void __launch_bounds__(most_threads)
    forward_row(const T* x, std::int64_t x_stride, float eps, T* y, std::int64_t y_stride,
                float* inverse_rms, int width) {
  __shared__ float shared[33];
  const T* in = x + blockIdx.x * x_stride;
  T* out = y + blockIdx.x * y_stride;
  float squares = 0;
  each_pack<n>(width, [&](int at) {
    for (const float value : load<n>(in + at).at) squares += value * value;
  });
  const float total = block_sum(squares, shared);
  const float r = rsqrtf(total / static_cast<float>(width) + eps);
  each_pack<n>(width, [&](int at) {
    Floats<n> pack = load<n>(in + at);
    for (float& value : pack.at) value *= r;
    store(pack, out + at);
  });
  if (inverse_rms != nullptr && threadIdx.x == 0) inverse_rms[blockIdx.x] = r;
}

template <int n, class T>
__global__ void __launch_bounds__(most_threads)
    backward_row(const T* dy, std::int64_t dy_stride, const T* y, std::int64_t y_stride,
                 const float* inverse_rms, T* dx, std::int64_t dx_stride, int width, bool add) {
  __shared__ float shared[33];
  const T* dout = dy + blockIdx.x * dy_stride;
  const T* out = y + blockIdx.x * y_stride;
  T* din = dx + blockIdx.x * dx_stride;
  float along = 0;
  each_pack<n>(width, [&](int at) {
    const Floats<n> gradient = load<n>(dout + at);
    const Floats<n> normed = load<n>(out + at);
#pragma unroll
    for (int i = 0; i < n; ++i) along += gradient.at[i] * normed.at[i];
  });
  const float mean = block_sum(along, shared) / static_cast<float>(width);
  const float r = inverse_rms[blockIdx.x];
  each_pack<n>(width, [&](int at) {
    const Floats<n> gradient = load<n>(dout + at);
    const Floats<n> normed = load<n>(out + at);
    Floats<n> sum = {};
    if (add) sum = load<n>(din + at);
#pragma unroll
    for (int i = 0; i < n; ++i) sum.at[i] += r * (gradient.at[i] - normed.at[i] * mean);
    store(sum, din + at);
  });
}

}  // namespace

void forward(const Tensor& x, double eps, Tensor y, Tensor inverse_rms) {
  const auto stream = metala::cuda::enter("rms_norm", {&x, &y, &inverse_rms});
  if (x.count() == 0) return;
  const bool packed = metala::cuda::in_packs({&x, &y});
  metala::cuda::with_type(x.dtype(), [&]<class T>(T) {
    metala::cuda::with_pack<T>(packed, [&]<int n>() {
      const unsigned threads = metala::cuda::threads_for(x.size(1) / n);
      forward_row<n, T><<<static_cast<unsigned>(x.size(0)), threads, 0, stream>>>(
          static_cast<const T*>(x.raw()), x.stride(0), static_cast<float>(eps),
          static_cast<T*>(y.raw()), y.stride(0), static_cast<float*>(inverse_rms.raw()),
          static_cast<int>(x.size(1)));
    });
  });
  metala::cuda::check_launch("rms_norm");
}

void backward(const Tensor& dy, const Tensor& y, const Tensor& inverse_rms, Tensor dx,
              Write write) {
  const auto stream = metala::cuda::enter("rms_norm", {&dy, &y, &inverse_rms, &dx});
  if (y.count() == 0) return;
  const bool packed = metala::cuda::in_packs({&dy, &y, &dx});
  metala::cuda::with_type(y.dtype(), [&]<class T>(T) {
    metala::cuda::with_pack<T>(packed, [&]<int n>() {
      const unsigned threads = metala::cuda::threads_for(y.size(1) / n);
      backward_row<n, T><<<static_cast<unsigned>(y.size(0)), threads, 0, stream>>>(
          static_cast<const T*>(dy.raw()), dy.stride(0), static_cast<const T*>(y.raw()),
          y.stride(0), static_cast<const float*>(inverse_rms.raw()), static_cast<T*>(dx.raw()),
          dx.stride(0), static_cast<int>(y.size(1)), write == Write::accumulate);
    });
  });
  metala::cuda::check_launch("rms_norm, backward");
}

}  // namespace metala::rms_norm::cuda
