// 64 tokens at a time on tensor cores: how sequences become blocks, and the launches.
#include <algorithm>

#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/ops/metala_attention/metala_attention_chunk.cuh"
#include "metala/ops/metala_attention/metala_attention_chunk_cuda.h"

namespace metala::metala_attention::cuda {
namespace {

template <int key_width, int value_width, bool outputs>
__global__ void __launch_bounds__(Kernel<key_width, value_width, outputs>::threads,
                                  Kernel<key_width, value_width, outputs>::blocks_at_once)
    walk_chunks(const Problem p) {
  extern __shared__ __align__(16) unsigned char shared[];
  Kernel<key_width, value_width, outputs> kernel(p, reinterpret_cast<Bf16*>(shared));
  if (outputs && kernel.place.tokens == 0 && !kernel.place.last) return;
  kernel.walk();
}

// From what each segment but the last adds to the state before each segment, in place.
__global__ void __launch_bounds__(256)
    join_segments(const Problem p, int key_width, int value_width) {
  const std::int64_t size = static_cast<std::int64_t>(key_width) * value_width;
  const std::int64_t heads = static_cast<std::int64_t>(p.batch) * p.heads;
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  if (at >= size) return;
  const std::int64_t row = at / value_width;
  const std::int64_t head = blockIdx.x;
  float s = p.before != nullptr ? p.before[head * size + at] : 0.0f;
  for (int segment = 0; segment < p.segments; ++segment) {
    const std::int64_t place = segment * heads + head;
    float& there = p.segment_states[place * size + at];
    const float before = s;
    if (segment + 1 < p.segments) s = fmaf(p.segment_decays[place * key_width + row], s, there);
    there = before;
  }
}

template <int key_width, int value_width, bool outputs>
void launch(const Problem& p, cudaStream_t stream) {
  using K = Kernel<key_width, value_width, outputs>;
  const auto kernel = walk_chunks<key_width, value_width, outputs>;
  metala::cuda::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(K::bytes)),
                      "metala_attention");
  const dim3 grid(static_cast<unsigned>(p.batch * p.heads), value_width / K::slice,
                  static_cast<unsigned>(outputs ? p.segments : p.segments - 1));
  kernel<<<grid, K::threads, K::bytes, stream>>>(p);
}

template <int key_width, int value_width>
void run(const Problem& p, cudaStream_t stream) {
  if (p.segments > 1) {
    launch<key_width, value_width, false>(p, stream);
    const dim3 grid(static_cast<unsigned>(p.batch * p.heads),
                    (key_width * value_width + 255) / 256);
    join_segments<<<grid, 256, 0, stream>>>(p, key_width, value_width);
  }
  launch<key_width, value_width, true>(p, stream);
}

bool aligned(const Tensor& t) {
  return reinterpret_cast<std::uintptr_t>(t.raw()) % 16 == 0 && t.stride(0) % 8 == 0;
}

struct Size {
  std::int64_t key_width, value_width;
  bool operator==(const Size&) const = default;
};

Size size_of(const Options& options, const Inputs& in) {
  return {in.q.size(1) / options.heads, in.v.size(1) / options.heads};
}

}  // namespace

bool fits_chunks(const Options& options, const Inputs& in, const Tensor& o) {
  if (in.q.dtype() != DType::bf16 || !in.u.defined() || in.k.defined()) return false;
  if (options.bidirectional) return false;
  if (!aligned(in.q) || !aligned(in.u) || !aligned(in.v) || !aligned(o)) return false;
  constexpr Size sizes[] = {{32, 32}, {64, 64}, {64, 128}, {128, 128}, {128, 256}};
  return std::find(std::begin(sizes), std::end(sizes), size_of(options, in)) != std::end(sizes);
}

void forward_in_chunks(const Options& options, const Inputs& in, Offsets offsets, const Tensor& o,
                       const Tensor& after) {
  const auto stream = metala::cuda::enter("metala_attention", {&in.q, &in.u, &in.v, &o});
  const auto size = size_of(options, in);
  Problem p = {};
  p.q = static_cast<const Bf16*>(in.q.raw());
  p.u = static_cast<const Bf16*>(in.u.raw());
  p.v = static_cast<const Bf16*>(in.v.raw());
  p.q_stride = in.q.stride(0);
  p.u_stride = in.u.stride(0);
  p.v_stride = in.v.stride(0);
  p.o_stride = o.stride(0);
  p.before = static_cast<const float*>(in.before.raw());
  p.o = static_cast<Bf16*>(o.raw());
  p.after = static_cast<float*>(after.raw());
  p.offsets = offsets.there();
  p.heads = static_cast<int>(options.heads);
  p.batch = static_cast<int>(batch_of(offsets));
  p.inverse_temperature = static_cast<float>(1 / options.temperature);
  p.scale = static_cast<float>(options.scale);

  // Two waves of blocks that fill a multiprocessor each: the first pass, of smaller blocks, then
  // has them all at once. Segments are of at least four chunks.
  const std::int64_t wanted_blocks = 2 * metala::cuda::multiprocessors(o.device());
  std::int64_t longest = 1;
  for (std::size_t b = 1; b < offsets.size(); ++b) {
    longest = std::max(longest, offsets[b] - offsets[b - 1]);
  }
  const std::int64_t slices = size.value_width > 128 ? 2 : 1;
  const std::int64_t blocks = std::max<std::int64_t>(p.batch * p.heads * slices, 1);
  const std::int64_t segments =
      std::clamp<std::int64_t>(wanted_blocks / blocks, 1, (longest + 4 * chunk - 1) / (4 * chunk));
  p.segment_tokens = ((longest + segments - 1) / segments + chunk - 1) / chunk * chunk;
  p.segments = static_cast<int>((longest + p.segment_tokens - 1) / p.segment_tokens);
  if (p.segments > 1) {
    const std::int64_t states = static_cast<std::int64_t>(p.segments) * p.batch * p.heads;
    const std::int64_t floats = states * size.key_width * (size.value_width + 1);
    p.segment_states = static_cast<float*>(
        metala::cuda::workspace(o.device(), static_cast<std::size_t>(floats) * sizeof(float)));
    p.segment_decays = p.segment_states + states * size.key_width * size.value_width;
  }
  if (size == Size{32, 32}) run<32, 32>(p, stream);
  if (size == Size{64, 64}) run<64, 64>(p, stream);
  if (size == Size{64, 128}) run<64, 128>(p, stream);
  if (size == Size{128, 128}) run<128, 128>(p, stream);
  if (size == Size{128, 256}) run<128, 256>(p, stream);
  metala::cuda::check_launch("metala_attention");
}

}  // namespace metala::metala_attention::cuda
