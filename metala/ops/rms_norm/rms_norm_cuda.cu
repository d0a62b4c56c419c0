// A block for each row; the second pass finds the row in the first-level cache.
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/rms_norm/rms_norm_cuda.h"

namespace metala::rms_norm::cuda {
namespace {

using metala::cuda::block_sum;
using metala::cuda::from_float;
using metala::cuda::to_float;

constexpr int threads = 256;

template <class T>
__global__ void __launch_bounds__(threads)
    forward_row(const T* x, std::int64_t x_stride, float eps, T* y, std::int64_t y_stride,
                float* inverse_rms, int width) {
  __shared__ float shared[33];
  const T* in = x + blockIdx.x * x_stride;
  T* out = y + blockIdx.x * y_stride;
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += threads) {
    const float value = to_float(in[i]);
    squares += value * value;
  }
  const float total = block_sum(squares, shared);
  const float r = rsqrtf(total / static_cast<float>(width) + eps);
  for (int i = static_cast<int>(threadIdx.x); i < width; i += threads) {
    out[i] = from_float<T>(to_float(in[i]) * r);
  }
  if (inverse_rms != nullptr && threadIdx.x == 0) inverse_rms[blockIdx.x] = r;
}

template <class T>
__global__ void __launch_bounds__(threads)
    backward_row(const T* dy, std::int64_t dy_stride, const T* y, std::int64_t y_stride,
                 const float* inverse_rms, T* dx, std::int64_t dx_stride, int width) {
  __shared__ float shared[33];
  const T* dout = dy + blockIdx.x * dy_stride;
  const T* out = y + blockIdx.x * y_stride;
  T* din = dx + blockIdx.x * dx_stride;
  float along = 0;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += threads) {
    along += to_float(dout[i]) * to_float(out[i]);
  }
  const float mean = block_sum(along, shared) / static_cast<float>(width);
  const float r = inverse_rms[blockIdx.x];
  for (int i = static_cast<int>(threadIdx.x); i < width; i += threads) {
    const float gradient = r * (to_float(dout[i]) - to_float(out[i]) * mean);
    din[i] = from_float<T>(to_float(din[i]) + gradient);
  }
}

}  // namespace

void forward(const Tensor& x, double eps, Tensor y, Tensor inverse_rms) {
  const auto stream = metala::cuda::enter("rms_norm", {&x, &y, &inverse_rms});
  if (x.count() == 0) return;
  metala::cuda::with_type(x.dtype(), [&]<class T>(T) {
    forward_row<T><<<static_cast<unsigned>(x.size(0)), threads, 0, stream>>>(
        static_cast<const T*>(x.raw()), x.stride(0), static_cast<float>(eps),
        static_cast<T*>(y.raw()), y.stride(0), static_cast<float*>(inverse_rms.raw()),
        static_cast<int>(x.size(1)));
  });
  metala::cuda::check_launch("rms_norm");
}

void backward(const Tensor& dy, const Tensor& y, const Tensor& inverse_rms, Tensor dx) {
  const auto stream = metala::cuda::enter("rms_norm", {&dy, &y, &inverse_rms, &dx});
  if (y.count() == 0) return;
  metala::cuda::with_type(y.dtype(), [&]<class T>(T) {
    backward_row<T><<<static_cast<unsigned>(y.size(0)), threads, 0, stream>>>(
        static_cast<const T*>(dy.raw()), dy.stride(0), static_cast<const T*>(y.raw()), y.stride(0),
        static_cast<const float*>(inverse_rms.raw()), static_cast<T*>(dx.raw()), dx.stride(0),
        static_cast<int>(y.size(1)));
  });
  metala::cuda::check_launch("rms_norm, backward");
}

}  // namespace metala::rms_norm::cuda
