// What works on rows of x alone: embedding, norm with the convolution's step, norm as a mixer.
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/early_launch.cuh"
#include "metala/ops/decode/decode_rows.cuh"

namespace metala::decode::cuda {
namespace {

using metala::cuda::Bf16;

__global__ void __launch_bounds__(row_threads)
    embed_row(const std::int32_t* ids, const Bf16* table, float scale, float* x, int width) {
  metala::cuda::let_next_start();
  const std::int32_t id = ids[blockIdx.x];
  const Bf16* from = table + std::int64_t{id < 0 ? 0 : id} * width;
  float* to = x + std::int64_t{blockIdx.x} * width;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += row_threads) {
    to[i] = id < 0 ? 0.0f : scale * metala::cuda::to_float(from[i]);
  }
}

__global__ void __launch_bounds__(row_threads)
    copy_row(const std::int32_t* ids, const float* from, float* to, int width) {
  if (ids[blockIdx.x] < 0) return;
  const std::int64_t row = std::int64_t{blockIdx.x} * width;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += row_threads) {
    to[row + i] = from[row + i];
  }
}

__global__ void __launch_bounds__(row_threads)
    normalise_row(NormArguments norm, ConvArguments conv, const float* x, Bf16* y, float* normed,
                  int width) {
  extern __shared__ __align__(16) unsigned char memory[];
  metala::cuda::let_next_start();
  const RowMemory m = row_memory(memory, width);
  const std::int64_t n = blockIdx.x;
  if (conv.taps != nullptr) load_past(conv, n, width, m);
  metala::cuda::await_previous();
  normed_row(norm, x + n * width, width, m, [&](int four, float4 v) {
    const std::int64_t at = n * width + 4 * four;
    if (normed != nullptr) *reinterpret_cast<float4*>(normed + at) = v;
    store_four(conv.taps != nullptr ? convolved(m, four, v) : v, y + at);
  });
}

__global__ void __launch_bounds__(row_threads)
    add_normalised_row(NormArguments norm, float* x, int width) {
  extern __shared__ __align__(16) unsigned char memory[];
  metala::cuda::let_next_start();
  metala::cuda::await_previous();
  float* at = x + std::int64_t{blockIdx.x} * width;
  normed_row(norm, at, width, row_memory(memory, width), [&](int four, float4 v) {
    *reinterpret_cast<float4*>(at + 4 * four) =
        fused_multiply_add(v, make_float4(1, 1, 1, 1), load_four(at + 4 * four));
  });
}

}  // namespace

void embed(const std::int32_t* ids, const Tensor& table, double scale, Tensor x) {
  const auto stream = metala::cuda::enter("decode", {&table, &x});
  // In turn, not early: it overwrites the x that the step before reads to the end.
  embed_row<<<static_cast<unsigned>(x.size(0)), row_threads, 0, stream>>>(
      ids, static_cast<const Bf16*>(table.raw()), static_cast<float>(scale),
      static_cast<float*>(x.raw()), static_cast<int>(x.size(1)));
  metala::cuda::check_launch("decode: embedding");
}

void copy_rows(const std::int32_t* ids, const Tensor& from, Tensor to) {
  const auto stream = metala::cuda::enter("decode", {&from, &to});
  copy_row<<<static_cast<unsigned>(to.size(0)), row_threads, 0, stream>>>(
      ids, static_cast<const float*>(from.raw()), static_cast<float*>(to.raw()),
      static_cast<int>(to.size(1)));
  metala::cuda::check_launch("decode: logits");
}

void normalise(const Norm& norm, const Conv& conv, const Tensor& x, Tensor y, Tensor normed) {
  const auto stream = metala::cuda::enter("decode", {&x, &y, &normed, &conv.taps, &conv.inputs});
  metala::cuda::launch_early(normalise_row, dim3(static_cast<unsigned>(x.size(0))), row_threads,
                             row_bytes(x.size(1)), stream, arguments(norm), arguments(conv),
                             static_cast<const float*>(x.raw()), static_cast<Bf16*>(y.raw()),
                             static_cast<float*>(normed.raw()), static_cast<int>(x.size(1)));
}

void add_normalised(const Norm& norm, Tensor x) {
  const auto stream = metala::cuda::enter("decode", {&x});
  metala::cuda::launch_early(add_normalised_row, dim3(static_cast<unsigned>(x.size(0))),
                             row_threads, row_bytes(x.size(1)), stream, arguments(norm),
                             static_cast<float*>(x.raw()), static_cast<int>(x.size(1)));
}

}  // namespace metala::decode::cuda
