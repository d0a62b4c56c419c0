#include <algorithm>

#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/matrix_product_cuda.h"
#include "metala/device/cuda/vector.cuh"

namespace metala::cuda {
namespace {

constexpr int threads = 256;

template <class T>
__global__ void __launch_bounds__(threads)
    add_bias_rows(const float* bias, T* y, std::int64_t stride, std::int64_t rows, int width) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    for (int i = static_cast<int>(threadIdx.x); i < width; i += threads) {
      T& at = y[row * stride + i];
      at = from_float<T>(to_float(at) + bias[i]);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(threads)
    add_rows(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride,
             std::int64_t rows, int width) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    for (int i = static_cast<int>(threadIdx.x); i < width; i += threads) {
      T& at = to[row * to_stride + i];
      at = from_float<T>(to_float(at) + to_float(from[row * from_stride + i]));
    }
  }
}

unsigned blocks_for(std::int64_t rows) {
  return static_cast<unsigned>(std::min<std::int64_t>(rows, 65535));
}

}  // namespace

void add_bias(const Tensor& bias, const Tensor& y) {
  const auto stream = enter("bias", {&bias, &y});
  if (y.count() == 0) return;
  with_type(y.dtype(), [&]<class T>(T) {
    add_bias_rows<T><<<blocks_for(y.size(0)), threads, 0, stream>>>(
        static_cast<const float*>(bias.raw()), static_cast<T*>(y.raw()), y.stride(0), y.size(0),
        static_cast<int>(y.size(1)));
  });
  check_launch("bias");
}

void add(const Tensor& from, const Tensor& to) {
  const auto stream = enter("add", {&from, &to});
  if (to.count() == 0) return;
  with_type(to.dtype(), [&]<class T>(T) {
    add_rows<T><<<blocks_for(to.size(0)), threads, 0, stream>>>(
        static_cast<const T*>(from.raw()), from.stride(0), static_cast<T*>(to.raw()), to.stride(0),
        to.size(0), static_cast<int>(to.size(1)));
  });
  check_launch("add");
}

}  // namespace metala::cuda
