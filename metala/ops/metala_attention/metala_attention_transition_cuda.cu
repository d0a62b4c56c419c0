// What passes between parts of sequences that lie on different ranks: a part's transition, and on
// the way back what it pulls of its initial state's gradient. Where the chunk form fits, both are
// what its first pass finds of segments (metala_attention_chunk.cuh, totals), here of all of them,
// joined from end to end.
#include "metala/ops/metala_attention/metala_attention_transition_cuda.h"

#include <algorithm>

#include "metala/base/error.h"
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/ops/metala_attention/metala_attention_arguments.cuh"
#include "metala/ops/metala_attention/metala_attention_chunk.cuh"
#include "metala/ops/metala_attention/metala_attention_chunk_cuda.h"
#include "metala/ops/metala_attention/metala_attention_local_cuda.h"
#include "metala/ops/metala_attention/metala_attention_segments.cuh"

namespace metala::metala_attention::cuda {
namespace {

constexpr int threads = 256;

template <int key_width, int value_width, bool backwards>
using Totals = Kernel<key_width, value_width, backwards ? Pass::totals_back : Pass::totals>;

template <int key_width, int value_width, bool backwards>
__global__ void __launch_bounds__(Totals<key_width, value_width, backwards>::threads,
                                  Totals<key_width, value_width, backwards>::blocks_at_once)
    segment_totals(const Problem p) {
  extern __shared__ __align__(16) unsigned char shared[];
  Totals<key_width, value_width, backwards>(p, reinterpret_cast<Bf16*>(shared),
                                            static_cast<int>(blockIdx.z))
      .walk();
}

// A block for each sequence and head. state [B * H, K, D] becomes, or gains, what the segments make
// of a state of zero, from the first to the last, or backwards; decay [B * H, K], if wanted, the
// product of theirs.
template <bool backwards>
__global__ void __launch_bounds__(threads)
    join_segments(const Problem p, int key_width, int value_width, float* state, float* decay) {
  const std::int64_t of_states = static_cast<std::int64_t>(gridDim.x) * key_width * value_width;
  const std::int64_t of_decays = static_cast<std::int64_t>(gridDim.x) * key_width;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * key_width;
  for (int e = static_cast<int>(threadIdx.x); e < key_width * value_width; e += threads) {
    float sum = 0;
    for (int i = 0; i < p.segments; ++i) {
      const int at = backwards ? p.segments - 1 - i : i;
      sum = fmaf(p.segment_decays[at * of_decays + row + e / value_width], sum,
                 p.segment_states[at * of_states + row * value_width + e]);
    }
    float& to = state[row * value_width + e];
    if (backwards) {
      const int heads = p.heads;
      to = fmaf(first_uncounted(p, blockIdx.x / heads, static_cast<int>(blockIdx.x) % heads,
                                key_width, e / value_width),
                sum, to);
    } else {
      to = sum;
    }
  }
  if (decay == nullptr) return;
  for (int k = static_cast<int>(threadIdx.x); k < key_width; k += threads) {
    float product = 1;
    for (int i = 0; i < p.segments; ++i) product *= p.segment_decays[i * of_decays + row + k];
    decay[row + k] = product;
  }
}

// Segments of at least four chunks, enough of them to fill the GPU.
void cut_evenly(Problem& p, Size size, Offsets offsets, std::int64_t multiprocessors) {
  std::int64_t longest = 1;
  for (std::size_t b = 1; b < offsets.size(); ++b) {
    longest = std::max(longest, offsets[b] - offsets[b - 1]);
  }
  const std::int64_t blocks = p.batch * p.heads * (size.value_width > 128 ? 2 : 1);
  const std::int64_t wanted = std::max<std::int64_t>(2 * multiprocessors / blocks, 1);
  const std::int64_t most = (longest + 4 * chunk - 1) / (4 * chunk);
  const std::int64_t segments = std::min(wanted, most);
  p.segment_tokens = ((longest + segments - 1) / segments + chunk - 1) / chunk * chunk;
  p.segments = static_cast<int>((longest + p.segment_tokens - 1) / p.segment_tokens);
  p.pieces = 1;
}

template <bool backwards>
void find_totals(Problem& p, Size size, float* state, float* decay, cudaStream_t stream) {
  const auto sequence_heads = static_cast<unsigned>(p.batch * p.heads);
  with_size(size, [&]<int key_width, int value_width>() {
    using K = Totals<key_width, value_width, backwards>;
    const auto kernel = segment_totals<key_width, value_width, backwards>;
    metala::cuda::allow_shared_memory(reinterpret_cast<const void*>(kernel), K::bytes);
    const dim3 grid(sequence_heads, value_width / K::slice, static_cast<unsigned>(p.segments));
    kernel<<<grid, K::threads, K::bytes, stream>>>(p);
  });
  join_segments<backwards><<<sequence_heads, threads, 0, stream>>>(
      p, static_cast<int>(size.key_width), static_cast<int>(size.value_width), state, decay);
}

// A warp for each sequence and 32 channels, in 8 stretches of tokens: decay [B, H * K] = the
// product of the tokens' decays, in double, with what each loses rather than keeps where that is
// the smaller.
constexpr int stretches = threads / 32;

template <class T>
__global__ void __launch_bounds__(threads) products_of_decays(const Arguments<T> p, float* decay) {
  const int channels = p.heads * p.key_width;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int stretch = static_cast<int>(threadIdx.x) / 32;
  const int channel = static_cast<int>(blockIdx.y) * 32 + lane;
  const std::int64_t sequence = blockIdx.x;
  double product = 1;
  if (channel < channels) {
    for (std::int64_t t = p.offsets[sequence] + stretch; t < p.offsets[sequence + 1];
         t += stretches) {
      const Gate g = p.gate_at(t, channel);
      product *= g.lose < 0.5f ? 1.0 - static_cast<double>(g.lose) : static_cast<double>(g.keep);
    }
  }
  __shared__ double products[stretches][32];
  products[stretch][lane] = product;
  __syncthreads();
  if (stretch > 0 || channel >= channels) return;
  for (int i = 1; i < stretches; ++i) product *= products[i][lane];
  decay[sequence * channels + channel] = static_cast<float>(product);
}

void transition_in_chunks(const Options& options, const Inputs& in, Offsets offsets,
                          const Tensor& added, const Tensor& decay, cudaStream_t stream) {
  const Size size = size_of(options, in);
  Problem p = problem(options, in, offsets);
  cut_evenly(p, size, offsets, metala::cuda::multiprocessors(in.q.device()));
  metala::cuda::Pieces::lay(in.q.device(),
                            [&](metala::cuda::Pieces& pieces) { take_segments(p, size, pieces); });
  find_totals<false>(p, size, static_cast<float*>(added.raw()), static_cast<float*>(decay.raw()),
                     stream);
}

}  // namespace

void transition(const Options& options, const Inputs& in, Offsets offsets, const Tensor& added,
                const Tensor& decay, const Tensor& room) {
  const auto stream = metala::cuda::enter(
      "metala_attention", {&in.q, &in.u, &in.k, &in.v, &in.fixed_decay, &added, &decay, &room});
  const std::int64_t batch = batch_of(offsets);
  if (batch == 0) return;
  if (fits_chunks(options, in, Tensor())) {
    transition_in_chunks(options, in, offsets, added, decay, stream);
  } else {
    Inputs recurrence = in;
    recurrence.z = recurrence.aug = {};
    metala_attention::forward(options, recurrence, offsets, room, {}, added);
    metala::cuda::with_type(in.q.dtype(), [&]<class T>(T) {
      const Arguments<T> p = arguments<T>(options, in, offsets);
      const auto groups = static_cast<unsigned>((in.q.size(1) + 31) / 32);
      products_of_decays<<<dim3(static_cast<unsigned>(batch), groups), threads, 0, stream>>>(
          p, static_cast<float*>(decay.raw()));
    });
  }
  metala::cuda::check_launch("metala_attention, transition");
}

bool backward_to_before(const Options& options, const Inputs& in, Offsets offsets,
                        const Tensor& mixed, const Tensor& do_, const Tensor& dafter,
                        const Gradients& to) {
  for (const Tensor* t : {&to.q, &to.u, &to.k, &to.v, &to.z, &to.aug, &to.fixed_decay, &to.o}) {
    if (t->defined()) return false;
  }
  if (!to.before.defined() || dafter.defined() || batch_of(offsets) == 0) return false;
  if (!fits_chunks(options, in, Tensor())) return false;
  const auto stream = metala::cuda::enter(
      "metala_attention", {&in.q, &in.u, &in.v, &in.z, &in.aug, &mixed, &do_, &to.before});
  const Size size = size_of(options, in);
  Problem p = problem(options, in, offsets);
  cut_evenly(p, size, offsets, metala::cuda::multiprocessors(in.q.device()));
  Bf16* dmixed = nullptr;
  float* dscore = nullptr;
  metala::cuda::Pieces::lay(in.q.device(), [&](metala::cuda::Pieces& pieces) {
    dmixed = pieces.take<Bf16>(in.v.size(0) * in.v.size(1));
    if (in.aug.defined()) dscore = pieces.take<float>(in.q.size(0) * options.heads);
    take_segments(p, size, pieces);
  });
  backward_local(options, in, offsets, mixed, do_, dmixed, dscore, {});
  p.v = dmixed;
  p.v_stride = in.v.size(1);
  find_totals<true>(p, size, static_cast<float*>(to.before.raw()), nullptr, stream);
  metala::cuda::check_launch("metala_attention, gradient of the state before");
  return true;
}

}  // namespace metala::metala_attention::cuda
