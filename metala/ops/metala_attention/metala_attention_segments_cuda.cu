#include <algorithm>

#include "metala/device/cuda/cuda_device.h"
#include "metala/ops/metala_attention/metala_attention_chunk_cuda.h"
#include "metala/ops/metala_attention/metala_attention_chunk_gradient.cuh"
#include "metala/ops/metala_attention/metala_attention_segments.cuh"

namespace metala::metala_attention::cuda {
namespace {

bool aligned(const Tensor& t) {
  return !t.defined() ||
         (reinterpret_cast<std::uintptr_t>(t.raw()) % 16 == 0 && t.stride(0) % 8 == 0);
}

}  // namespace

bool has_room(Size size, Device device) {
  std::size_t wanted = 0;
  const bool compiled = with_size(size, [&]<int key_width, int value_width>() {
    wanted = std::max({Kernel<key_width, value_width, Pass::totals>::bytes,
                       Kernel<key_width, value_width, Pass::outputs>::bytes,
                       Kernel<key_width, value_width, Pass::states>::bytes,
                       Kernel<key_width, value_width, Pass::totals_back>::bytes,
                       Kernel<key_width, value_width, Pass::states_back>::bytes,
                       ChunkGradient<key_width, value_width>::bytes});
  });
  return compiled && wanted <= metala::cuda::shared_memory(device);
}

bool fits_chunks(const Options& options, const Inputs& in) {
  if (in.q.dtype() != DType::bf16 || !in.u.defined() || in.k.defined()) return false;
  if (options.bidirectional) return false;
  if (!aligned(in.q) || !aligned(in.u) || !aligned(in.v)) return false;
  return has_room(size_of(options, in), in.q.device());
}

bool fits_chunks(const Options& options, const Inputs& in, const Tensor& o) {
  return fits_chunks(options, in) && aligned(o);
}

bool fits_chunks(const Options& options, const Inputs& in, const Gradients& to) {
  return fits_chunks(options, in) && aligned(to.q) && aligned(to.u) && aligned(to.v);
}

Shape chunk_states_shape(const Options& options, const Inputs& in, Offsets offsets) {
  const Size size = size_of(options, in);
  return {chunk_places(in, offsets), options.heads, size.key_width, size.value_width};
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

void cut(Problem& p, Size size, Offsets offsets, std::int64_t multiprocessors, std::int64_t walks,
         PassCost joining, PassCost whole) {
  std::int64_t longest = 1;
  for (std::size_t b = 1; b < offsets.size(); ++b) {
    longest = std::max(longest, offsets[b] - offsets[b - 1]);
  }
  const std::int64_t slices = size.value_width > 128 ? 2 : 1;
  const std::int64_t blocks = std::max<std::int64_t>(p.batch * p.heads * slices * walks, 1);
  const std::int64_t most = std::min((longest + 4 * chunk - 1) / (4 * chunk),
                                     std::max<std::int64_t>(8 * multiprocessors / blocks, 1));
  // Of a pass over so many segments, in walks of a segment on a multiprocessor of its own: blocks
  // that share one hide half of each other's waiting.
  const auto time = [&](const PassCost& pass, std::int64_t count) {
    const std::int64_t deep = (blocks * count + multiprocessors - 1) / multiprocessors;
    const auto shared = [](std::int64_t n) {
      return n == 0 ? 0 : 0.5 + 0.5 * static_cast<double>(n);
    };
    const std::int64_t full = deep / pass.blocks_at_once;
    return pass.time * (static_cast<double>(full) * shared(pass.blocks_at_once) +
                        shared(deep % pass.blocks_at_once));
  };
  // A block's start takes as long as a chunk or two; joining pieces, a little for each.
  const auto walk = [&](double pieces) {
    return static_cast<double>(longest) / chunk / pieces + 1.5 + 0.05 * pieces;
  };
  const auto total = [&](std::int64_t count, std::int64_t pieces) {
    const auto all = static_cast<double>(count * pieces);
    return time(joining, (count - 1) * pieces) * walk(all) +
           time(whole, count) * walk(static_cast<double>(count));
  };
  std::int64_t segments = 1;
  std::int64_t pieces = 1;
  for (std::int64_t s = 2; s <= most; ++s) {
    for (const std::int64_t each : {1, 2}) {
      if (total(s, each) >= total(segments, pieces)) continue;
      segments = s;
      pieces = each;
    }
  }
  const std::int64_t unit = chunk * pieces;
  p.segment_tokens = ((longest + segments - 1) / segments + unit - 1) / unit * unit;
  p.segments = static_cast<int>((longest + p.segment_tokens - 1) / p.segment_tokens);
  p.pieces = static_cast<int>(pieces);
}

void take_segments(Problem& p, Size size, metala::cuda::Pieces& pieces) {
  const std::int64_t states = static_cast<std::int64_t>(p.segments) * p.pieces * p.batch * p.heads;
  p.segment_states = pieces.take<float>(states * size.key_width * size.value_width);
  p.segment_decays = pieces.take<float>(states * size.key_width);
}

}  // namespace metala::metala_attention::cuda
