#include <algorithm>

#include "metala/ops/metala_attention/metala_attention_chunk_cuda.h"
#include "metala/ops/metala_attention/metala_attention_segments.cuh"

namespace metala::metala_attention::cuda {
namespace {

template <bool backwards>
__global__ void __launch_bounds__(256) join(const Problem p, int key_width, int value_width) {
  const std::int64_t size = static_cast<std::int64_t>(key_width) * value_width;
  const std::int64_t heads = static_cast<std::int64_t>(p.batch) * p.heads;
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  if (at >= size) return;
  const std::int64_t row = at / value_width;
  const std::int64_t head = blockIdx.x;
  float s = p.before != nullptr ? p.before[head * size + at] : 0.0f;
  for (int i = 0; i < p.segments; ++i) {
    const int segment = backwards ? p.segments - 1 - i : i;
    const std::int64_t place = segment * heads + head;
    float& there = p.segment_states[place * size + at];
    const float before = s;
    if (i + 1 < p.segments) s = fmaf(p.segment_decays[place * key_width + row], s, there);
    there = before;
  }
}

bool aligned(const Tensor& t) {
  return !t.defined() ||
         (reinterpret_cast<std::uintptr_t>(t.raw()) % 16 == 0 && t.stride(0) % 8 == 0);
}

bool fits(const Options& options, const Inputs& in) {
  if (in.q.dtype() != DType::bf16 || !in.u.defined() || in.k.defined()) return false;
  if (options.bidirectional) return false;
  if (!aligned(in.q) || !aligned(in.u) || !aligned(in.v)) return false;
  return with_size(size_of(options, in), []<int...>(){});
}

}  // namespace

bool fits_chunks(const Options& options, const Inputs& in, const Tensor& o) {
  return fits(options, in) && aligned(o);
}

bool fits_chunks(const Options& options, const Inputs& in, const Gradients& to) {
  return fits(options, in) && aligned(to.q) && aligned(to.u) && aligned(to.v);
}

Problem problem(const Options& options, const Inputs& in, Offsets offsets) {
  Problem p = {};
  p.q = static_cast<const Bf16*>(in.q.raw());
  p.u = static_cast<const Bf16*>(in.u.raw());
  p.v = static_cast<const Bf16*>(in.v.raw());
  p.q_stride = in.q.stride(0);
  p.u_stride = in.u.stride(0);
  p.v_stride = in.v.stride(0);
  p.offsets = offsets.there();
  p.heads = static_cast<int>(options.heads);
  p.batch = static_cast<int>(batch_of(offsets));
  p.inverse_temperature = static_cast<float>(1 / options.temperature);
  p.scale = static_cast<float>(options.scale);
  return p;
}

void cut(Problem& p, Size size, Offsets offsets, std::int64_t at_once, std::int64_t walks) {
  std::int64_t longest = 1;
  for (std::size_t b = 1; b < offsets.size(); ++b) {
    longest = std::max(longest, offsets[b] - offsets[b - 1]);
  }
  const std::int64_t slices = size.value_width > 128 ? 2 : 1;
  const std::int64_t blocks = std::max<std::int64_t>(p.batch * p.heads * slices * walks, 1);
  const std::int64_t most = std::min((longest + 4 * chunk - 1) / (4 * chunk),
                                     std::max<std::int64_t>(4 * at_once / blocks, 1));
  // In walks of a whole sequence: waves of blocks, each a segment long, after a first pass over all
  // segments but one that takes a fifth of the time.
  const auto time = [&](std::int64_t segments) {
    const auto waves = [&](std::int64_t count) { return (blocks * count + at_once - 1) / at_once; };
    return (static_cast<double>(waves(segments)) + 0.2 * static_cast<double>(waves(segments - 1))) /
           static_cast<double>(segments);
  };
  std::int64_t segments = 1;
  for (std::int64_t s = 2; s <= most; ++s) {
    if (time(s) < time(segments)) segments = s;
  }
  p.segment_tokens = ((longest + segments - 1) / segments + chunk - 1) / chunk * chunk;
  p.segments = static_cast<int>((longest + p.segment_tokens - 1) / p.segment_tokens);
}

void take_segments(Problem& p, Size size, metala::cuda::Pieces& pieces) {
  const std::int64_t states = static_cast<std::int64_t>(p.segments) * p.batch * p.heads;
  p.segment_states = pieces.take<float>(states * size.key_width * size.value_width);
  p.segment_decays = pieces.take<float>(states * size.key_width);
}

template <bool backwards>
void join_segments(const Problem& p, int key_width, int value_width, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.batch * p.heads),
                  static_cast<unsigned>((key_width * value_width + 255) / 256));
  join<backwards><<<grid, 256, 0, stream>>>(p, key_width, value_width);
}
template void join_segments<false>(const Problem&, int, int, cudaStream_t);
template void join_segments<true>(const Problem&, int, int, cudaStream_t);

}  // namespace metala::metala_attention::cuda
