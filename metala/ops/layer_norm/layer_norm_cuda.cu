// A block for each row, which it passes over three times; the later passes find it in the first-
// level cache.
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/layer_norm/layer_norm_cuda.h"

namespace metala::layer_norm::cuda {
namespace {

using metala::cuda::block_sum;
using metala::cuda::from_float;
using metala::cuda::to_float;

constexpr int threads = 256;

template <class T>
__global__ void __launch_bounds__(threads)
    forward_row(const T* x, std::int64_t x_stride, const float* weight, const float* bias,
                float eps, T* y, std::int64_t y_stride, float* mean, float* inverse_std,
                int width) {
  __shared__ float shared[33];
  const T* in = x + blockIdx.x * x_stride;
  T* out = y + blockIdx.x * y_stride;
  const int first = static_cast<int>(threadIdx.x);
  const float share = 1 / static_cast<float>(width);
  float sum = 0;
  for (int i = first; i < width; i += threads) sum += to_float(in[i]);
  const float centre = block_sum(sum, shared) * share;
  float squares = 0;
  for (int i = first; i < width; i += threads) {
    const float centred = to_float(in[i]) - centre;
    squares += centred * centred;
  }
  const float r = rsqrtf(block_sum(squares, shared) * share + eps);
  for (int i = first; i < width; i += threads) {
    float value = (to_float(in[i]) - centre) * r;
    if (weight != nullptr) value *= weight[i];
    if (bias != nullptr) value += bias[i];
    out[i] = from_float<T>(value);
  }
  if (threadIdx.x != 0) return;
  if (mean != nullptr) mean[blockIdx.x] = centre;
  if (inverse_std != nullptr) inverse_std[blockIdx.x] = r;
}

}  // namespace

void forward(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, Tensor y,
             Tensor mean, Tensor inverse_std) {
  const auto stream =
      metala::cuda::enter("layer_norm", {&x, &weight, &bias, &y, &mean, &inverse_std});
  if (x.count() == 0) return;
  metala::cuda::with_type(x.dtype(), [&]<class T>(T) {
    forward_row<T><<<static_cast<unsigned>(x.size(0)), threads, 0, stream>>>(
        static_cast<const T*>(x.raw()), x.stride(0), static_cast<const float*>(weight.raw()),
        static_cast<const float*>(bias.raw()), static_cast<float>(eps), static_cast<T*>(y.raw()),
        y.stride(0), static_cast<float*>(mean.raw()), static_cast<float*>(inverse_std.raw()),
        static_cast<int>(x.size(1)));
  });
  metala::cuda::check_launch("layer_norm");
}

}  // namespace metala::layer_norm::cuda
