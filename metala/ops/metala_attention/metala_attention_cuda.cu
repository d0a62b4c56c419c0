// The recurrence in the form that is right for all sizes and options, token by token with columns
// of the state side by side, or in chunks where those fit; then what is local to a token
// (augmentation, LayerNorm, output gate).
//
// A block owns 64 columns of the state of one head of one sequence. Four neighbouring lanes share a
// column: each keeps a quarter of its rows in registers for the whole sequence, so the state is
// read once, written once, and every token costs 3 K D multiply-adds. Gates of 16 tokens at a time
// are computed together and wait in shared memory.
#include "metala/base/error.h"
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/ops/metala_attention/metala_attention_arguments.cuh"
#include "metala/ops/metala_attention/metala_attention_chunk_cuda.h"
#include "metala/ops/metala_attention/metala_attention_cuda.h"
#include "metala/ops/metala_attention/metala_attention_cut.cuh"
#include "metala/ops/metala_attention/metala_attention_local.cuh"
#include "metala/ops/metala_attention/metala_attention_padded_cuda.h"
#include "metala/ops/metala_attention/metala_attention_share.cuh"

namespace metala::metala_attention::cuda {
namespace {

using metala::cuda::Bf16;
using metala::cuda::Floats;
using metala::cuda::from_float;
using metala::cuda::load;
using metala::cuda::store;
using metala::cuda::to_float;
using metala::cuda::warp_sum;

// What the recurrence needs of 16 tokens.
template <int key_rows>
struct Tokens : StateTokens<key_rows> {
  float q[tokens_at_once][key_rows];
};

// key_rows: K rounded up to 4 x rows_of_lane. Writes scale S^T q into o; adds to what is there on
// the way back of a bidirectional pass.
template <int rows_of_lane, class T>
__global__ void __launch_bounds__(threads)
    recurrence(const Arguments<T> p, const Cut cut, bool backwards) {
  constexpr int key_rows = rows_of_lane * parts;
  extern __shared__ float memory[];
  Tokens<key_rows>& tokens = *reinterpret_cast<Tokens<key_rows>*>(memory);
  const int head = static_cast<int>(blockIdx.x) % p.heads;
  const std::int64_t sequence = static_cast<std::int64_t>(blockIdx.x) / p.heads;
  const int column = static_cast<int>(blockIdx.y) * columns + static_cast<int>(threadIdx.x) / parts;
  const int part = static_cast<int>(threadIdx.x) % parts;
  const bool real = column < p.value_width;
  const std::int64_t start = p.offsets[sequence];
  const std::int64_t length = p.offsets[sequence + 1] - start;
  const std::int64_t state_at = static_cast<std::int64_t>(blockIdx.x) * p.key_width * p.value_width;

  float state[rows_of_lane];
#pragma unroll
  for (int r = 0; r < rows_of_lane; ++r) {
    const int row = r * parts + part;
    const bool carried = p.before != nullptr && real && row < p.key_width;
    state[r] = carried ? p.before[state_at + row * p.value_width + column] : 0.0f;
  }
  const int segment = static_cast<int>(blockIdx.z);
  const std::int64_t begin = segment * cut.tokens;
  if (begin >= length && segment > 0) return;
  const std::int64_t end = begin + cut.tokens < length ? begin + cut.tokens : length;
  for (int i = 0; i < segment; ++i) pass_segment(cut, cut.added, i, state);

  for (std::int64_t first = begin; first < end; first += tokens_at_once) {
    const int count = static_cast<int>(end - first < tokens_at_once ? end - first : tokens_at_once);
    const auto token = [&](int i) {
      return start + (backwards ? length - 1 - (first + i) : first + i);
    };
    load_tokens(
        tokens, p, head, count, token,
        [&](int at, int row, std::int64_t t, int channel, bool exists) {
          tokens.q[at][row] = exists ? p.scale * to_float(p.q.row(t)[channel]) : 0.0f;
        },
        [](int, int, std::int64_t, int, bool) {});
    for (int t = 0; t < count; ++t) {
      const float value = tokens.v[t][threadIdx.x / parts];
      float read = 0;
#pragma unroll
      for (int r = 0; r < rows_of_lane; ++r) {
        const int row = r * parts + part;
        const float change = fmaf(tokens.change[t][row], state[r], tokens.k[t][row] * value);
        state[r] = fmaf(tokens.stay[t][row], state[r], change);
        read = fmaf(tokens.q[t][row], state[r], read);
      }
      read += __shfl_xor_sync(0xffffffffu, read, 1);
      read += __shfl_xor_sync(0xffffffffu, read, 2);
      if (part != 0 || !real) continue;
      T& out = p.o.row(token(t))[head * p.value_width + column];
      out = from_float<T>(backwards ? read + to_float(out) : read);
    }
  }
  if (p.after == nullptr || !real || end < length) return;
#pragma unroll
  for (int r = 0; r < rows_of_lane; ++r) {
    const int row = r * parts + part;
    if (row < p.key_width) p.after[state_at + row * p.value_width + column] = state[r];
  }
}

// A warp for each token and head: o holds scale S^T q and becomes silu(z) LayerNorm(c).
constexpr int warps = 8;

template <class T>
__global__ void __launch_bounds__(32 * warps) local(Arguments<T> p, std::int64_t token_heads) {
  const std::int64_t index =
      static_cast<std::int64_t>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
  if (index >= token_heads) return;
  const std::int64_t t = index / p.heads;
  const int head = static_cast<int>(index % p.heads);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = head * p.value_width;
  T* out = p.o.row(t) + first;
  const float score = augmentation_score(p, t, head);
  constexpr int most = 256 / 32;
  float c[most];
#pragma unroll
  for (int i = 0; i < most; ++i) {
    const int at = i * 32 + lane;
    c[i] = 0;
    if (at >= p.value_width) continue;
    c[i] = to_float(out[at]);
    if (p.aug != nullptr) c[i] += centred_sigmoid(score * to_float(p.v.row(t)[first + at]));
    if (p.mixed.data != nullptr) p.mixed.row(t)[first + at] = from_float<T>(c[i]);
  }
  normalise<T>(c, 1 / static_cast<float>(p.value_width),
               [&](int i) { return i * 32 + lane < p.value_width; });
#pragma unroll
  for (int i = 0; i < most; ++i) {
    const int at = i * 32 + lane;
    if (at >= p.value_width) continue;
    float y = c[i];
    if (p.z.data != nullptr) {
      const float z = to_float(p.z.row(t)[first + at]);
      y *= z * sigmoid(z);
    }
    out[at] = from_float<T>(y);
  }
}

// The same for bf16 with widths that a warp takes in equal shares: lanes load their share of a row
// at once and keep it.
template <int key_share, int value_share>
__global__ void __launch_bounds__(32 * warps)
    local_in_shares(Arguments<Bf16> p, std::int64_t token_heads) {
  const std::int64_t index =
      static_cast<std::int64_t>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
  if (index >= token_heads) return;
  const std::int64_t t = index / p.heads;
  const int head = static_cast<int>(index % p.heads);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int key = (head * 32 + lane) * key_share;
  const int value = (head * 32 + lane) * value_share;
  const Floats<value_share> read = load<value_share>(p.o.row(t) + value);
  const Floats<value_share> v = load<value_share>(p.v.row(t) + value);
  const Floats<value_share> z = load<value_share>(p.z.row(t) + value);
  const Floats<key_share> q = load<key_share>(p.q.row(t) + key);
  const Floats<key_share> u = load<key_share>(p.u.row(t) + key);
  float score = 0;
#pragma unroll
  for (int i = 0; i < key_share; ++i) {
    score += q.at[i] * bit_gate(u.at[i], p.inverse_temperature).lose * p.aug[key + i];
  }
  score = warp_sum(score);
  Floats<value_share> c;
#pragma unroll
  for (int i = 0; i < value_share; ++i) {
    c.at[i] = read.at[i] + fast_centred_sigmoid(score * v.at[i]);
  }
  if (p.mixed.data != nullptr) store(c, p.mixed.row(t) + value);
  normalise<Bf16>(c.at, 1.0f / (32 * value_share), [](int) { return true; });
#pragma unroll
  for (int i = 0; i < value_share; ++i) c.at[i] *= z.at[i] * fast_sigmoid(z.at[i]);
  store(c, p.o.row(t) + value);
}

// Whether local_in_shares was launched: bf16 with everything that the released models have.
template <class T>
bool launch_in_shares(const Arguments<T>& p, unsigned blocks, std::int64_t token_heads,
                      cudaStream_t stream) {
  if constexpr (std::is_same_v<T, Bf16>) {
    if (!released_form(p) || !in_shares(p.value_width, p.o)) return false;
    if (p.mixed.data != nullptr && !in_shares(p.value_width, p.mixed)) return false;
    return with_shares(p, [&]<int key_share, int value_share>() {
      local_in_shares<key_share, value_share><<<blocks, 32 * warps, 0, stream>>>(p, token_heads);
    });
  }
  return false;
}

template <class T>
void recur(const Arguments<T>& p, Offsets offsets, Device device, bool backwards,
           cudaStream_t stream) {
  const std::int64_t sequence_heads = batch_of(offsets) * p.heads;
  const std::int64_t blocks = (p.value_width + columns - 1) / columns;
  dim3 grid(static_cast<unsigned>(sequence_heads), static_cast<unsigned>(blocks));
  with_rows(p.key_width, [&]<int rows_of_lane>() {
    Cut cut = cut_for(offsets, sequence_heads * blocks, 64, device);
    if (cut.segments > 1) {
      metala::cuda::Pieces::lay(device, [&](metala::cuda::Pieces& pieces) {
        cut.added = take_added(cut, sequence_heads * blocks, rows_of_lane, pieces);
        cut.lost = take_lost(cut, sequence_heads, rows_of_lane, pieces);
      });
      grid.z = static_cast<unsigned>(cut.segments - 1);
      launch_from_zero<rows_of_lane>(p, cut, grid, backwards, stream);
      grid.z = static_cast<unsigned>(cut.segments);
    }
    constexpr std::size_t bytes = sizeof(Tokens<rows_of_lane * parts>);
    const auto kernel = recurrence<rows_of_lane, T>;
    metala::cuda::allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes);
    kernel<<<grid, threads, bytes, stream>>>(p, cut, backwards);
  });
}

// A chunk costs as much when it is nearly empty: decoding goes token by token.
bool long_enough(const Inputs& in, Offsets offsets) {
  return in.q.size(0) >= 16 * batch_of(offsets);
}

}  // namespace

Shape states_shape(const Options& options, const Inputs& in, Offsets offsets) {
  if (!long_enough(in, offsets) || !fits_chunks(options, in)) return {0};
  return chunk_states_shape(options, in, offsets);
}

void forward(const Options& options, const Inputs& in, Offsets offsets, Tensor o, Tensor mixed,
             Tensor after, const Tensor& states) {
  const auto stream = metala::cuda::enter(
      "metala_attention", {&in.q, &in.u, &in.k, &in.v, &in.z, &in.aug, &in.fixed_decay, &in.before,
                           &o, &mixed, &after, &states});
  const auto batch = batch_of(offsets);
  if (batch == 0) return;
  const bool by_chunks = long_enough(in, offsets) && fits_chunks(options, in, o);
  if (states.defined() && !by_chunks) {
    throw Error(
        "metala_attention: where states are wanted o's rows must start at 16 bytes' multiples");
  }
  metala::cuda::with_type(in.q.dtype(), [&]<class T>(T) {
    Arguments<T> p = arguments<T>(options, in, offsets);
    p.o = rows<T>(o);
    p.mixed = rows<T>(mixed);
    p.after = static_cast<float*>(after.raw());
    if (by_chunks) {
      forward_in_chunks(options, in, offsets, o, after, states);
    } else if (long_enough(in, offsets) && fits_padded(options, in)) {
      forward_padded(options, in, offsets, o, after);
    } else {
      recur(p, offsets, in.q.device(), false, stream);
      if (options.bidirectional) recur(p, offsets, in.q.device(), true, stream);
    }
    const std::int64_t token_heads = in.q.size(0) * options.heads;
    const auto blocks = static_cast<unsigned>((token_heads + warps - 1) / warps);
    if (blocks == 0 || launch_in_shares(p, blocks, token_heads, stream)) return;
    local<<<blocks, 32 * warps, 0, stream>>>(p, token_heads);
  });
  metala::cuda::check_launch("metala_attention");
}

}  // namespace metala::metala_attention::cuda
