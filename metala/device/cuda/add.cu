#include <algorithm>

#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/matrix_product_cuda.h"
#include "metala/device/cuda/packs.h"
#include "metala/device/cuda/vector.cuh"

namespace metala::cuda {
namespace {

constexpr int most_threads = 512;

template <int n, class T>
__global__ void __launch_bounds__(most_threads)
    add_bias_rows(const float* bias, T* y, std::int64_t stride, std::int64_t rows, int width) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    for (int at = static_cast<int>(threadIdx.x) * n; at < width;
         at += static_cast<int>(blockDim.x) * n) {
      Floats<n> sum = load<n>(y + row * stride + at);
#pragma unroll
      for (int i = 0; i < n; ++i) sum.at[i] += bias[at + i];
      store(sum, y + row * stride + at);
    }
  }
}

template <int n, class T>
__global__ void __launch_bounds__(most_threads)
    add_rows(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride,
             std::int64_t rows, int width) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    for (int at = static_cast<int>(threadIdx.x) * n; at < width;
         at += static_cast<int>(blockDim.x) * n) {
      const Floats<n> more = load<n>(from + row * from_stride + at);
      Floats<n> sum = load<n>(to + row * to_stride + at);
#pragma unroll
      for (int i = 0; i < n; ++i) sum.at[i] += more.at[i];
      store(sum, to + row * to_stride + at);
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
    with_pack<T>(in_packs({&y}), [&]<int n>() {
      add_bias_rows<n, T><<<blocks_for(y.size(0)), threads_for(y.size(1) / n), 0, stream>>>(
          static_cast<const float*>(bias.raw()), static_cast<T*>(y.raw()), y.stride(0), y.size(0),
          static_cast<int>(y.size(1)));
    });
  });
  check_launch("bias");
}

void add(const Tensor& from, const Tensor& to) {
  const auto stream = enter("add", {&from, &to});
  if (to.count() == 0) return;
  with_type(to.dtype(), [&]<class T>(T) {
    with_pack<T>(in_packs({&from, &to}), [&]<int n>() {
      add_rows<n, T><<<blocks_for(to.size(0)), threads_for(to.size(1) / n), 0, stream>>>(
          static_cast<const T*>(from.raw()), from.stride(0), static_cast<T*>(to.raw()),
          to.stride(0), to.size(0), static_cast<int>(to.size(1)));
    });
  });
  check_launch("add");
}

}  // namespace metala::cuda
