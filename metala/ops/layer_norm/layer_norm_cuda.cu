// A block for each row, which it passes over two or three times; the later passes find it in the
// first-level cache. Gradients of weight and bias: blocks sum columns over parts of the rows, then
// the parts are added in order.
#include <algorithm>

#include "metala/device/cuda/column_sums.h"
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

template <class T>
struct Gradients {
  const T* dy;
  const T* x;
  T* dx;
  std::int64_t dy_stride, x_stride, dx_stride;
  const float *weight, *mean, *inverse_std;
  int width;
};

template <class T>
__global__ void __launch_bounds__(threads) backward_row(Gradients<T> g) {
  __shared__ float shared[33];
  const T* gradient = g.dy + blockIdx.x * g.dy_stride;
  const T* in = g.x + blockIdx.x * g.x_stride;
  T* into = g.dx + blockIdx.x * g.dx_stride;
  const float m = g.mean[blockIdx.x];
  const float r = g.inverse_std[blockIdx.x];
  const int first = static_cast<int>(threadIdx.x);
  const auto e_at = [&](int i) {
    return to_float(gradient[i]) * (g.weight == nullptr ? 1.0f : g.weight[i]);
  };
  float sum = 0;
  float along = 0;
  for (int i = first; i < g.width; i += threads) {
    const float e = e_at(i);
    sum += e;
    along += e * (to_float(in[i]) - m) * r;
  }
  const float share = 1 / static_cast<float>(g.width);
  const float mean_e = block_sum(sum, shared) * share;
  const float mean_eh = block_sum(along, shared) * share;
  for (int i = first; i < g.width; i += threads) {
    const float h = (to_float(in[i]) - m) * r;
    into[i] = from_float<T>(to_float(into[i]) + r * (e_at(i) - mean_e - h * mean_eh));
  }
}

// weights and biases [parts, d]: sums over the rows of each part.
template <class T>
__global__ void __launch_bounds__(threads)
    sum_columns(Gradients<T> g, std::int64_t rows, std::int64_t rows_of_part, float* weights,
                float* biases) {
  const int column = static_cast<int>(blockIdx.x * threads + threadIdx.x);
  if (column >= g.width) return;
  const std::int64_t begin = blockIdx.y * rows_of_part;
  const std::int64_t end = begin + rows_of_part < rows ? begin + rows_of_part : rows;
  float weight = 0;
  float bias = 0;
#pragma unroll 4
  for (std::int64_t n = begin; n < end; ++n) {
    const float gradient = to_float(g.dy[n * g.dy_stride + column]);
    const float in = to_float(g.x[n * g.x_stride + column]);
    weight += gradient * (in - g.mean[n]) * g.inverse_std[n];
    bias += gradient;
  }
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.y) * g.width + column;
  weights[at] = weight;
  biases[at] = bias;
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

void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& mean,
              const Tensor& inverse_std, Tensor dx, Tensor dweight, Tensor dbias) {
  const auto stream = metala::cuda::enter(
      "layer_norm", {&dy, &x, &weight, &mean, &inverse_std, &dx, &dweight, &dbias});
  if (x.count() == 0) return;
  const std::int64_t rows = x.size(0);
  const std::int64_t width = x.size(1);
  metala::cuda::with_type(x.dtype(), [&]<class T>(T) {
    const Gradients<T> g = {static_cast<const T*>(dy.raw()),
                            static_cast<const T*>(x.raw()),
                            static_cast<T*>(dx.raw()),
                            dy.stride(0),
                            x.stride(0),
                            dx.stride(0),
                            static_cast<const float*>(weight.raw()),
                            static_cast<const float*>(mean.raw()),
                            static_cast<const float*>(inverse_std.raw()),
                            static_cast<int>(width)};
    backward_row<T><<<static_cast<unsigned>(rows), threads, 0, stream>>>(g);
    if (!dweight.defined() && !dbias.defined()) return;
    constexpr std::int64_t most_parts = 128;
    const std::int64_t rows_of_part =
        std::max<std::int64_t>(32, (rows + most_parts - 1) / most_parts);
    const std::int64_t parts = (rows + rows_of_part - 1) / rows_of_part;
    auto* weights = static_cast<float*>(metala::cuda::workspace(
        x.device(), static_cast<std::size_t>(2 * parts * width) * sizeof(float)));
    float* biases = weights + parts * width;
    const dim3 grid(static_cast<unsigned>((width + threads - 1) / threads),
                    static_cast<unsigned>(parts));
    sum_columns<T><<<grid, threads, 0, stream>>>(g, rows, rows_of_part, weights, biases);
    const auto add = [&](const float* partial, const Tensor& to) {
      if (!to.defined()) return;
      metala::cuda::add_partial_sums(partial, parts, width, static_cast<float*>(to.raw()), stream);
    };
    add(weights, dweight);
    add(biases, dbias);
  });
  metala::cuda::check_launch("layer_norm, backward");
}

}  // namespace metala::layer_norm::cuda
