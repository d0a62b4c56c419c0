// What parts of sequences take from and give to each other's ends, and states that pass through a
// rank: elementwise, a thread an element.
#include "metala/autograd/context_parallel_cuda.h"

#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/vector.cuh"

namespace metala::context_parallel::cuda {
namespace {

using metala::cuda::from_float;
using metala::cuda::to_float;

constexpr int threads = 256;

unsigned blocks_for(std::int64_t elements) {
  return static_cast<unsigned>((elements + threads - 1) / threads);
}

// Element [b, i, j] of a convolution's state [B, d, W] and the token whose input it is.
struct Place {
  std::int64_t channel, row;
  bool real;

  __device__ Place(std::int64_t index, const std::int64_t* offsets, std::int64_t channels,
                   std::int64_t width) {
    const std::int64_t sequence = index / (channels * width);
    channel = index / width % channels;
    row = offsets[sequence + 1] - width + index % width;
    real = row >= offsets[sequence];
  }
};

template <class T>
__global__ void take_last(const T* x, std::int64_t stride, const std::int64_t* offsets,
                          std::int64_t channels, std::int64_t width, std::int64_t elements,
                          float* state) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (index >= elements) return;
  const Place at(index, offsets, channels, width);
  state[index] = at.real ? to_float(x[at.row * stride + at.channel]) : 0.0f;
}

template <class T>
__global__ void add_to_last(const float* state, const std::int64_t* offsets, std::int64_t channels,
                            std::int64_t width, std::int64_t elements, T* dx, std::int64_t stride) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (index >= elements) return;
  const Place at(index, offsets, channels, width);
  if (!at.real) return;
  T& to = dx[at.row * stride + at.channel];
  to = from_float<T>(to_float(to) + state[index]);
}

__global__ void pass(float* state, const float* decay, const float* addition,
                     std::int64_t value_width, std::int64_t elements) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (index < elements) {
    state[index] = fmaf(decay[index / value_width], state[index], addition[index]);
  }
}

}  // namespace

void take_last_inputs(const Tensor& x, Offsets offsets, const Tensor& state) {
  const auto stream = metala::cuda::enter("context parallelism", {&x, &state});
  if (state.count() == 0) return;
  metala::cuda::with_type(x.dtype(), [&]<class T>(T) {
    take_last<<<blocks_for(state.count()), threads, 0, stream>>>(
        static_cast<const T*>(x.raw()), x.stride(0), offsets.there(), state.size(1), state.size(2),
        state.count(), state.data<float>());
  });
  metala::cuda::check_launch("last inputs");
}

void add_last_gradients(const Tensor& state, Offsets offsets, const Tensor& dx) {
  const auto stream = metala::cuda::enter("context parallelism", {&dx, &state});
  if (state.count() == 0) return;
  metala::cuda::with_type(dx.dtype(), [&]<class T>(T) {
    add_to_last<<<blocks_for(state.count()), threads, 0, stream>>>(
        state.data<float>(), offsets.there(), state.size(1), state.size(2), state.count(),
        static_cast<T*>(dx.raw()), dx.stride(0));
  });
  metala::cuda::check_launch("gradients of last inputs");
}

void pass_on(const Tensor& state, const Tensor& decay, const Tensor& addition) {
  const auto stream = metala::cuda::enter("context parallelism", {&state, &decay, &addition});
  if (state.count() == 0) return;
  pass<<<blocks_for(state.count()), threads, 0, stream>>>(state.data<float>(), decay.data<float>(),
                                                         addition.data<float>(), state.size(3),
                                                         state.count());
  metala::cuda::check_launch("passing states on");
}

}  // namespace metala::context_parallel::cuda
