// Each thread walks a run of tokens down one channel and keeps the last W inputs in registers, so x
// is read once (and W-1 tokens more at the start of a run). Neighbouring threads have neighbouring
// channels.
//
// Backwards a thread walks its run forwards too, with the pre-activations computed again: token t
// is the last to add to the gradient of input t-W+1, so W unfinished gradients wait in registers
// and a run reads W-1 tokens beyond its end.
#include "metala/device/cuda/column_sums.h"
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/short_conv/short_conv_cuda.h"

namespace metala::short_conv::cuda {
namespace {

using metala::cuda::from_float;
using metala::cuda::to_float;

constexpr int threads = 128;
constexpr int run = 32;  // tokens of a thread

template <class T>
struct Problem {
  const T* x;
  std::int64_t x_stride;
  const float* weight;
  const std::int64_t* offsets;
  std::int64_t batch;
  const float* before;
  T* y;
  std::int64_t y_stride;
  float* after;
  int width;  // d
};

// The sequence that holds token t: the last whose offset is at most t.
__device__ std::int64_t sequence_of(const std::int64_t* offsets, std::int64_t batch,
                                    std::int64_t t) {
  std::int64_t low = 0;
  std::int64_t high = batch - 1;
  while (low < high) {
    const std::int64_t middle = (low + high + 1) / 2;
    if (offsets[middle] <= t) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// Input t of a sequence that starts at `start`; negative positions lie in the state.
template <int W, class T>
__device__ float input(const Problem<T>& p, std::int64_t sequence, std::int64_t start,
                       std::int64_t t, int channel) {
  if (t >= start) return to_float(p.x[t * p.x_stride + channel]);
  if (p.before == nullptr || t < start - W) return 0;
  return p.before[(sequence * p.width + channel) * W + (t - start + W)];
}

template <int W, class T>
__global__ void __launch_bounds__(threads) forward_runs(Problem<T> p, std::int64_t tokens) {
  const int channel = static_cast<int>(blockIdx.y * threads + threadIdx.x);
  if (channel >= p.width) return;
  std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * run;
  const std::int64_t end = t + run < tokens ? t + run : tokens;
  float taps[W];
#pragma unroll
  for (int j = 0; j < W; ++j) taps[j] = p.weight[channel * W + j];
  std::int64_t sequence = sequence_of(p.offsets, p.batch, t);
  while (t < end) {
    while (p.offsets[sequence + 1] <= t) ++sequence;  // past sequences of no tokens
    const std::int64_t start = p.offsets[sequence];
    const std::int64_t stop = p.offsets[sequence + 1] < end ? p.offsets[sequence + 1] : end;
    float window[W];  // the inputs before token t, oldest first
#pragma unroll
    for (int j = 0; j < W; ++j) window[j] = input<W>(p, sequence, start, t - W + j, channel);
    for (; t < stop; ++t) {
#pragma unroll
      for (int j = 0; j + 1 < W; ++j) window[j] = window[j + 1];
      window[W - 1] = to_float(p.x[t * p.x_stride + channel]);
      float sum = 0;
#pragma unroll
      for (int j = 0; j < W; ++j) sum += taps[j] * window[j];
      p.y[t * p.y_stride + channel] = from_float<T>(sum / (1 + __expf(-sum)));
    }
  }
}

// The last W inputs of each sequence. `after` may be `before`: a thread reads all of its window
// before it writes any.
template <int W, class T>
__global__ void __launch_bounds__(threads) final_states(Problem<T> p) {
  const int channel = static_cast<int>(blockIdx.x * threads + threadIdx.x);
  const std::int64_t sequence = blockIdx.y;
  if (channel >= p.width) return;
  const std::int64_t start = p.offsets[sequence];
  const std::int64_t end = p.offsets[sequence + 1];
  float window[W];
#pragma unroll
  for (int j = 0; j < W; ++j) window[j] = input<W>(p, sequence, start, end - W + j, channel);
#pragma unroll
  for (int j = 0; j < W; ++j) p.after[(sequence * p.width + channel) * W + j] = window[j];
}

template <class T>
struct Gradients {
  const T* dy;
  std::int64_t dy_stride;
  const float* dafter;
  T* dx;
  std::int64_t dx_stride;
  float* dweight;  // [runs, d, W]
  float* dbefore;
};

// The gradient of the pre-activation of token t, whose inputs are `window`.
template <int W, class T>
__device__ __forceinline__ float sum_gradient(const Gradients<T>& g, const float* taps,
                                              const float* window, std::int64_t t, int channel) {
  float sum = 0;
#pragma unroll
  for (int j = 0; j < W; ++j) sum += taps[j] * window[j];
  const float s = 1 / (1 + __expf(-sum));
  return to_float(g.dy[t * g.dy_stride + channel]) * s * (1 + sum * (1 - s));
}

template <class T>
__device__ __forceinline__ void add_to(T& at, float value) {
  at = from_float<T>(to_float(at) + value);
}

constexpr int backward_run = 64;

template <int W, class T>
__global__ void __launch_bounds__(threads)
    backward_runs(Problem<T> p, Gradients<T> g, std::int64_t tokens) {
  const int channel = static_cast<int>(blockIdx.y * threads + threadIdx.x);
  if (channel >= p.width) return;
  std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * backward_run;
  const std::int64_t end = t + backward_run < tokens ? t + backward_run : tokens;
  float taps[W], dtaps[W];
#pragma unroll
  for (int j = 0; j < W; ++j) {
    taps[j] = p.weight[channel * W + j];
    dtaps[j] = 0;
  }
  std::int64_t sequence = sequence_of(p.offsets, p.batch, t);
  while (t < end) {
    while (p.offsets[sequence + 1] <= t) ++sequence;
    const std::int64_t start = p.offsets[sequence];
    const std::int64_t sequence_end = p.offsets[sequence + 1];
    const std::int64_t own = t;
    const std::int64_t stop = sequence_end < end ? sequence_end : end;
    const std::int64_t reach = stop + W - 1 < sequence_end ? stop + W - 1 : sequence_end;
    float window[W], waiting[W];  // waiting[j] of input t-W+1+j
#pragma unroll
    for (int j = 0; j < W; ++j) {
      window[j] = input<W>(p, sequence, start, t - W + j, channel);
      waiting[j] = 0;
    }
    for (; t < reach + W - 1; ++t) {
#pragma unroll
      for (int j = 0; j + 1 < W; ++j) {
        window[j] = window[j + 1];
        waiting[j] = waiting[j + 1];
      }
      waiting[W - 1] = 0;
      if (t < reach) {
        window[W - 1] = to_float(p.x[t * p.x_stride + channel]);
        const float dsum = sum_gradient<W>(g, taps, window, t, channel);
#pragma unroll
        for (int j = 0; j < W; ++j) {
          waiting[j] += dsum * taps[j];
          if (t < stop) dtaps[j] += dsum * window[j];
        }
      }
      const std::int64_t done = t - W + 1;
      if (done >= own && done < stop) add_to(g.dx[done * g.dx_stride + channel], waiting[0]);
    }
    t = stop;
  }
  const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * p.width + channel) * W;
#pragma unroll
  for (int j = 0; j < W; ++j) g.dweight[at + j] = dtaps[j];
}

// What flows through the states of a sequence: dafter into its last inputs, the first tokens' taps
// and dafter of short sequences into dbefore.
template <int W, class T>
__global__ void __launch_bounds__(threads) backward_states(Problem<T> p, Gradients<T> g) {
  const int channel = static_cast<int>(blockIdx.x * threads + threadIdx.x);
  const std::int64_t sequence = blockIdx.y;
  if (channel >= p.width) return;
  const std::int64_t start = p.offsets[sequence];
  const std::int64_t end = p.offsets[sequence + 1];
  const std::int64_t state = (sequence * p.width + channel) * W;
  float carried[W];  // of the W inputs before the sequence
#pragma unroll
  for (int j = 0; j < W; ++j) carried[j] = 0;
  if (g.dafter != nullptr) {
    const int length = end - start < W ? static_cast<int>(end - start) : W;
#pragma unroll
    for (int j = 0; j < W; ++j) {
      const float gradient = g.dafter[state + j];
      if (j >= W - length) {
        add_to(g.dx[(end - W + j) * g.dx_stride + channel], gradient);
        continue;
      }
#pragma unroll
      for (int i = 0; i < W; ++i) {
        if (i == j + length) carried[i] += gradient;
      }
    }
  }
  if (g.dbefore == nullptr) return;
  float taps[W];
#pragma unroll
  for (int j = 0; j < W; ++j) taps[j] = p.weight[channel * W + j];
#pragma unroll
  for (int i = 0; i < W - 1; ++i) {
    const std::int64_t t = start + i;
    if (t >= end) break;
    float window[W];
#pragma unroll
    for (int j = 0; j < W; ++j) {
      window[j] = input<W>(p, sequence, start, t - W + 1 + j, channel);
    }
    const float dsum = sum_gradient<W>(g, taps, window, t, channel);
    // Tap j reads input i-W+1+j of the sequence: state entry i+1+j.
#pragma unroll
    for (int j = 0; j + i + 1 < W; ++j) carried[i + 1 + j] += dsum * taps[j];
  }
#pragma unroll
  for (int j = 0; j < W; ++j) g.dbefore[state + j] += carried[j];
}

// f.template operator()<W>() for the width at hand.
template <int W, class F>
void with_width(std::int64_t width, F&& f) {
  if (width == W) return f.template operator()<W>();
  if constexpr (W < 16) with_width<W + 1>(width, f);
}

}  // namespace

void forward(const Tensor& x, const Tensor& weight, Offsets offsets, const Tensor& before, Tensor y,
             Tensor after) {
  const auto stream = metala::cuda::enter("short_conv", {&x, &weight, &before, &y, &after});
  const auto batch = batch_of(offsets);
  const auto channels = static_cast<unsigned>((x.size(1) + threads - 1) / threads);
  metala::cuda::with_type(x.dtype(), [&]<class T>(T) {
    const Problem<T> p = {static_cast<const T*>(x.raw()),
                          x.stride(0),
                          static_cast<const float*>(weight.raw()),
                          offsets.there(),
                          batch,
                          static_cast<const float*>(before.raw()),
                          static_cast<T*>(y.raw()),
                          y.stride(0),
                          static_cast<float*>(after.raw()),
                          static_cast<int>(x.size(1))};
    with_width<1>(weight.size(1), [&]<int W>() {
      const auto runs = static_cast<unsigned>((x.size(0) + run - 1) / run);
      if (runs > 0) {
        forward_runs<W><<<dim3(runs, channels), threads, 0, stream>>>(p, x.size(0));
      }
      if (after.defined() && batch > 0) {
        final_states<W><<<dim3(channels, static_cast<unsigned>(batch)), threads, 0, stream>>>(p);
      }
    });
  });
  metala::cuda::check_launch("short_conv");
}

void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, Offsets offsets,
              const Tensor& before, const Tensor& dafter, Tensor dx, Tensor dweight,
              Tensor dbefore) {
  const auto stream = metala::cuda::enter(
      "short_conv", {&dy, &x, &weight, &before, &dafter, &dx, &dweight, &dbefore});
  const auto batch = batch_of(offsets);
  const std::int64_t taps = weight.count();
  const auto channels = static_cast<unsigned>((x.size(1) + threads - 1) / threads);
  const std::int64_t runs = (x.size(0) + backward_run - 1) / backward_run;
  auto* partial = static_cast<float*>(
      metala::cuda::workspace(x.device(), static_cast<std::size_t>(runs * taps) * sizeof(float)));
  metala::cuda::with_type(x.dtype(), [&]<class T>(T) {
    Problem<T> p = {};
    p.x = static_cast<const T*>(x.raw());
    p.x_stride = x.stride(0);
    p.weight = static_cast<const float*>(weight.raw());
    p.offsets = offsets.there();
    p.batch = batch;
    p.before = static_cast<const float*>(before.raw());
    p.width = static_cast<int>(x.size(1));
    const Gradients<T> g = {
        static_cast<const T*>(dy.raw()),   dy.stride(0), static_cast<const float*>(dafter.raw()),
        static_cast<T*>(dx.raw()),         dx.stride(0), partial,
        static_cast<float*>(dbefore.raw())};
    with_width<1>(weight.size(1), [&]<int W>() {
      if (runs > 0) {
        const dim3 grid(static_cast<unsigned>(runs), channels);
        backward_runs<W><<<grid, threads, 0, stream>>>(p, g, x.size(0));
        metala::cuda::add_partial_sums(partial, runs, taps, static_cast<float*>(dweight.raw()),
                                       stream);
      }
      if (batch > 0 && (dafter.defined() || dbefore.defined())) {
        const dim3 grid(channels, static_cast<unsigned>(batch));
        backward_states<W><<<grid, threads, 0, stream>>>(p, g);
      }
    });
  });
  metala::cuda::check_launch("short_conv, backward");
}

}  // namespace metala::short_conv::cuda
