// Each thread walks a run of tokens down one channel and keeps the last W inputs in registers, so x
// is read once (and W-1 tokens more at the start of a run). Neighbouring threads have neighbouring
// channels.
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

}  // namespace metala::short_conv::cuda
