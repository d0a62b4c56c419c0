// The gradient in chunks of 64 tokens: two walks find the state before every chunk, unless the
// forward pass left it, and the gradient of the state after it; then all chunks are taken at once.
#include "metala/device/cuda/column_sums.h"
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/ops/metala_attention/metala_attention_chunk_cuda.h"
#include "metala/ops/metala_attention/metala_attention_chunk_gradient.cuh"
#include "metala/ops/metala_attention/metala_attention_join.cuh"
#include "metala/ops/metala_attention/metala_attention_local_cuda.h"
#include "metala/ops/metala_attention/metala_attention_pipeline_cuda.h"
#include "metala/ops/metala_attention/metala_attention_segments.cuh"

namespace metala::metala_attention::cuda {
namespace {

template <int key_width, int value_width, bool totals>
struct Walks {
  using Forth = Kernel<key_width, value_width, totals ? Pass::totals : Pass::states>;
  using Back = Kernel<key_width, value_width, totals ? Pass::totals_back : Pass::states_back>;
  static_assert(Forth::threads == Back::threads && Forth::slice == Back::slice);
  static constexpr std::size_t bytes = Back::bytes > Forth::bytes ? Back::bytes : Forth::bytes;
};

// Both walks side by side: the first `ahead` blocks along z go forth, the others back. The total of
// the segment where a walk ends is not wanted.
template <int key_width, int value_width, bool totals>
__global__ void __launch_bounds__(Walks<key_width, value_width, totals>::Back::threads,
                                  Walks<key_width, value_width, totals>::Back::blocks_at_once)
    walk_both(const Problem forth, const Problem back, int ahead) {
  extern __shared__ __align__(16) unsigned char shared[];
  using W = Walks<key_width, value_width, totals>;
  Bf16* const memory = reinterpret_cast<Bf16*>(shared);
  const int z = static_cast<int>(blockIdx.z);
  if (z < ahead) {
    typename W::Forth(forth, memory, z).walk();
  } else {
    typename W::Back(back, memory, z - ahead + (totals ? back.pieces : 0)).walk();
  }
}

template <int key_width, int value_width>
__global__ void __launch_bounds__(ChunkGradient<key_width, value_width>::threads,
                                  ChunkGradient<key_width, value_width>::blocks_at_once)
    chunk_gradients(const GradientProblem p) {
  extern __shared__ __align__(1024) unsigned char shared[];
  ChunkGradient<key_width, value_width>(p, reinterpret_cast<Bf16*>(shared)).run_chunk();
}

// Forth only if it has chunks' states to write.
template <int key_width, int value_width, bool totals>
void launch_walks(const Problem& forth, const Problem& back, cudaStream_t stream) {
  using W = Walks<key_width, value_width, totals>;
  const auto kernel = walk_both<key_width, value_width, totals>;
  metala::cuda::allow_shared_memory(reinterpret_cast<const void*>(kernel), W::bytes);
  const int walks = totals ? (forth.segments - 1) * forth.pieces : forth.segments;
  const int ahead = forth.chunk_states != nullptr ? walks : 0;
  const dim3 grid(static_cast<unsigned>(forth.batch * forth.heads), value_width / W::Back::slice,
                  static_cast<unsigned>(ahead + walks));
  kernel<<<grid, W::Back::threads, W::bytes, stream>>>(forth, back, ahead);
}

template <int key_width, int value_width>
void run(const Problem& forth, const Problem& back, const GradientProblem& p, std::int64_t places,
         const Tensor& dmixed, cudaStream_t stream) {
  if (forth.segments > 1) {
    launch_walks<key_width, value_width, true>(forth, back, stream);
    if (forth.chunk_states != nullptr) launch_join<key_width, value_width>(forth, false, stream);
    launch_join<key_width, value_width>(back, true, stream);
  }
  if (forth.chunk_states == nullptr && fits_pipeline({key_width, value_width}, dmixed)) {
    walk_in_pipeline(back, dmixed, places, true, stream);
  } else {
    launch_walks<key_width, value_width, false>(forth, back, stream);
  }
  using G = ChunkGradient<key_width, value_width>;
  const auto kernel = chunk_gradients<key_width, value_width>;
  metala::cuda::allow_shared_memory(reinterpret_cast<const void*>(kernel), G::bytes);
  kernel<<<static_cast<unsigned>(places * p.heads), G::threads, G::bytes, stream>>>(p);
}

}  // namespace

void backward_in_chunks(const Options& options, const Inputs& in, Offsets offsets,
                        const Tensor& mixed, const Tensor& do_, const Tensor& dafter,
                        const Gradients& to, const Tensor& states, const LocalShares& shares) {
  const auto stream = metala::cuda::enter(
      "metala_attention", {&in.q, &in.u, &in.v, &in.z, &in.aug, &in.before, &mixed, &do_, &dafter,
                           &states, &to.q, &to.u, &to.v, &to.z, &to.aug, &to.before});
  const Size size = size_of(options, in);
  const std::int64_t tokens = in.q.size(0);
  const std::int64_t places = chunk_places(in, offsets);
  const std::int64_t channels = in.q.size(1);
  const std::int64_t values = in.v.size(1);

  Problem forth = problem(options, in, offsets);
  forth.before = static_cast<const float*>(in.before.raw());
  const PassCost walk = {size.key_width > 64 ? 1 : 2, 1};  // as Kernel::blocks_at_once
  cut(forth, size, offsets, metala::cuda::multiprocessors(in.q.device()), states.defined() ? 1 : 2,
      walk, walk);
  Problem back = forth;
  back.v_stride = values;
  back.before = static_cast<const float*>(dafter.raw());
  back.after = static_cast<float*>(to.before.raw());
  const bool local = mixed.defined();
  Bf16* dmixed = local ? nullptr : static_cast<Bf16*>(do_.raw());
  float* local_dscore = nullptr;
  float* daug = nullptr;
  metala::cuda::Pieces::lay(in.q.device(), [&](metala::cuda::Pieces& pieces) {
    if (local) dmixed = pieces.take<Bf16>(tokens * values);
    if (local && in.aug.defined()) local_dscore = pieces.take<float>(tokens * options.heads);
    if ((local || shares.dscore) && to.aug.defined()) {
      daug = pieces.take<float>(places * channels);
    }
    for (Problem* walk : {&forth, &back}) {
      if (walk == &forth && states.defined()) continue;
      walk->chunk_states = pieces.take<Bf16>(places * channels * size.value_width);
      if (walk->segments > 1) take_segments(*walk, size, pieces);
    }
  });
  back.v = dmixed;
  if (local) backward_local(options, in, offsets, mixed, do_, dmixed, local_dscore, to);

  GradientProblem p = {};
  p.q = forth.q;
  p.u = forth.u;
  p.v = forth.v;
  p.dmixed = dmixed;
  p.q_stride = forth.q_stride;
  p.u_stride = forth.u_stride;
  p.v_stride = forth.v_stride;
  p.states = states.defined() ? static_cast<const Bf16*>(states.raw()) : forth.chunk_states;
  p.dstates = back.chunk_states;
  p.dscore = local ? local_dscore : shares.dscore.value_or(nullptr);
  p.aug = static_cast<const float*>(in.aug.raw());
  const auto rows_of = [](const Tensor& t, Bf16*& data, std::int64_t& stride) {
    if (!t.defined()) return;
    data = static_cast<Bf16*>(t.raw());
    stride = t.stride(0);
  };
  rows_of(to.q, p.dq, p.dq_stride);
  rows_of(to.u, p.du, p.du_stride);
  rows_of(to.v, p.dv, p.dv_stride);
  p.add = to.tokens == Write::accumulate;
  p.add_v = local || shares.dscore || p.add;  // what is local has written its share
  p.daug = daug;
  p.offsets = forth.offsets;
  p.heads = forth.heads;
  p.batch = forth.batch;
  p.inverse_temperature = forth.inverse_temperature;
  p.scale = forth.scale;
  with_size(size, [&]<int key_width, int value_width>() {
    run<key_width, value_width>(
        forth, back, p, places,
        Tensor::wrap(dmixed, {tokens, values}, DType::bf16, nullptr, in.q.device()), stream);
  });
  if (daug != nullptr) {
    metala::cuda::add_partial_sums(daug, places, channels, static_cast<float*>(to.aug.raw()),
                                   stream);
  }
  metala::cuda::check_launch("metala_attention, backward in chunks");
}

}  // namespace metala::metala_attention::cuda
