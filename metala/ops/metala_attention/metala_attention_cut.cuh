// Token by token a sequence is as slow as its tokens are many. So sequences are cut into segments
// that blocks walk side by side: once from a state of zero, to find what each segment adds, and
// then from what those before it leave.
//
// A block owns 64 columns of one head's state; four neighbouring lanes share a column, each has a
// quarter of its rows, and keeps them in registers for the whole walk.
#pragma once

#include <algorithm>

#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/pieces.h"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/metala_attention/metala_attention_arguments.cuh"

namespace metala::metala_attention::cuda {

constexpr int columns = 64;  // of a block
constexpr int parts = 4;     // lanes that share a column
constexpr int threads = columns * parts;
constexpr int tokens_at_once = 16;

// Segments of all sequences, in the order of the walk; the third dimension of a grid.
struct Cut {
  std::int64_t tokens = 0;  // of a segment
  int segments = 1;
  // [segment, B * H, blocks of columns, rows of a lane, threads], and [segment, B * H, rows]: what
  // a state of zero becomes over a segment, and the share that any loses there.
  float *added = nullptr, *lost = nullptr;
};

// As many blocks as are at work at once, four on a multiprocessor, of segments that are a multiple of
// `unit` tokens. With a few more than that, most would wait for the last ones.
inline Cut cut_for(Offsets offsets, std::int64_t blocks, std::int64_t unit, Device device) {
  std::int64_t longest = 1;
  for (std::size_t b = 1; b < offsets.size(); ++b) {
    longest = std::max(longest, offsets[b] - offsets[b - 1]);
  }
  const std::int64_t busy = 4 * metala::cuda::multiprocessors(device);
  const std::int64_t wanted = busy / std::max<std::int64_t>(blocks, 1);
  const std::int64_t most = (longest + unit - 1) / unit;
  const std::int64_t segments = std::max<std::int64_t>(std::min(wanted, most), 1);
  Cut cut;
  cut.tokens = ((longest + segments - 1) / segments + unit - 1) / unit * unit;
  cut.segments = static_cast<int>((longest + cut.tokens - 1) / cut.tokens);
  return cut;
}

inline float* take_added(const Cut& cut, std::int64_t blocks, int rows_of_lane,
                         metala::cuda::Pieces& pieces) {
  return pieces.take<float>(cut.segments * blocks * rows_of_lane * threads);
}
inline float* take_lost(const Cut& cut, std::int64_t sequence_heads, int rows_of_lane,
                        metala::cuda::Pieces& pieces) {
  return pieces.take<float>(cut.segments * sequence_heads * rows_of_lane * parts);
}

// Where a thread's part of a segment's numbers lies.
__device__ __forceinline__ std::int64_t added_at(int segment, int rows_of_lane) {
  const std::int64_t block =
      (static_cast<std::int64_t>(segment) * gridDim.x + blockIdx.x) * gridDim.y + blockIdx.y;
  return block * rows_of_lane * threads + threadIdx.x;
}
__device__ __forceinline__ std::int64_t lost_at(int segment, int rows_of_lane) {
  return (static_cast<std::int64_t>(segment) * gridDim.x + blockIdx.x) * rows_of_lane * parts +
         threadIdx.x % parts;
}

// The state after one more segment. As for a token, what is lost is taken off where it is little.
template <int rows_of_lane>
__device__ __forceinline__ void pass_segment(const Cut& cut, const float* added, int segment,
                                             float (&state)[rows_of_lane]) {
  const float* const adds = added + added_at(segment, rows_of_lane);
  const float* const loses = cut.lost + lost_at(segment, rows_of_lane);
#pragma unroll
  for (int r = 0; r < rows_of_lane; ++r) {
    const float lost = loses[r * parts];
    const float stay = lost <= 0.5f ? fmaf(-lost, state[r], state[r]) : (1 - lost) * state[r];
    state[r] = stay + adds[r * threads];
  }
}

// What tokens do to a state.
template <int key_rows>
struct StateTokens {
  float k[tokens_at_once][key_rows], stay[tokens_at_once][key_rows];
  float change[tokens_at_once][key_rows];
  float v[tokens_at_once][columns];
};

// Fills in `count` tokens, for the head's channels and the block's columns, between barriers;
// token(i) is the row of the i-th. Also calls with_key(i, row, token, channel, whether there is
// such a channel) and with_value(i, column, token, element, whether there is such a column).
template <int key_rows, class T, class Token, class WithKey, class WithValue>
__device__ __forceinline__ void load_tokens(StateTokens<key_rows>& tokens, const Arguments<T>& p,
                                            int head, int count, Token token, WithKey with_key,
                                            WithValue with_value) {
  __syncthreads();  // all have read the tokens before
  for (int i = static_cast<int>(threadIdx.x); i < count * key_rows; i += threads) {
    const int at = i / key_rows;
    const int row = i % key_rows;
    const std::int64_t t = token(at);
    const int channel = head * p.key_width + row;
    const bool exists = row < p.key_width;
    const Gate g = exists ? p.gate_at(t, channel) : Gate{1.0f, 0.0f};
    const Passage across = passage(g);
    tokens.stay[at][row] = across.stay;
    tokens.change[at][row] = across.change;
    tokens.k[at][row] = exists ? p.key_at(t, channel, g) : 0.0f;
    with_key(at, row, t, channel, exists);
  }
  for (int i = static_cast<int>(threadIdx.x); i < count * columns; i += threads) {
    const int at = i / columns;
    const int own = i % columns;
    const std::int64_t t = token(at);
    const int column = static_cast<int>(blockIdx.y) * columns + own;
    const int element = head * p.value_width + column;
    const bool exists = column < p.value_width;
    tokens.v[at][own] = exists ? metala::cuda::to_float(p.v.row(t)[element]) : 0.0f;
    with_value(at, own, t, element, exists);
  }
  __syncthreads();
}

// Fills in a cut's numbers, walking from the left or, `backwards`, from the right.
template <int rows_of_lane, class T>
__global__ void __launch_bounds__(threads)
    walk_from_zero(const Arguments<T> p, const Cut cut, bool backwards) {
  constexpr int key_rows = rows_of_lane * parts;
  extern __shared__ float memory[];
  auto& tokens = *reinterpret_cast<StateTokens<key_rows>*>(memory);
  const int head = static_cast<int>(blockIdx.x) % p.heads;
  const std::int64_t sequence = static_cast<std::int64_t>(blockIdx.x) / p.heads;
  const int own_column = static_cast<int>(threadIdx.x) / parts;
  const int part = static_cast<int>(threadIdx.x) % parts;
  const std::int64_t start = p.offsets[sequence];
  const std::int64_t length = p.offsets[sequence + 1] - start;
  const int segment = static_cast<int>(blockIdx.z);
  const std::int64_t begin = segment * cut.tokens;
  const std::int64_t end = begin + cut.tokens < length ? begin + cut.tokens : length;
  float state[rows_of_lane] = {};
  float lost[rows_of_lane] = {};
  for (std::int64_t first = begin; first < end; first += tokens_at_once) {
    const int count = static_cast<int>(end - first < tokens_at_once ? end - first : tokens_at_once);
    const auto token = [&](int i) {
      return start + (backwards ? length - 1 - (first + i) : first + i);
    };
    load_tokens(
        tokens, p, head, count, token, [](int, int, std::int64_t, int, bool) {},
        [](int, int, std::int64_t, int, bool) {});
    for (int t = 0; t < count; ++t) {
      const float value = tokens.v[t][own_column];
#pragma unroll
      for (int r = 0; r < rows_of_lane; ++r) {
        const int row = r * parts + part;
        const float stay = tokens.stay[t][row];
        const float change = tokens.change[t][row];
        state[r] = fmaf(stay, state[r], fmaf(change, state[r], tokens.k[t][row] * value));
        // A state of ones that every token loses from tends to zero as this tends to one.
        lost[r] = fmaf(stay, lost[r], fmaf(change, lost[r], 1 - stay - change));
      }
    }
  }
  float* const adds = cut.added + added_at(segment, rows_of_lane);
#pragma unroll
  for (int r = 0; r < rows_of_lane; ++r) adds[r * threads] = state[r];
  if (blockIdx.y != 0 || static_cast<int>(threadIdx.x) >= parts) return;
  float* const loses = cut.lost + lost_at(segment, rows_of_lane);
#pragma unroll
  for (int r = 0; r < rows_of_lane; ++r) loses[r * parts] = lost[r];
}

template <int rows_of_lane, class T>
void launch_from_zero(const Arguments<T>& p, const Cut& cut, dim3 grid, bool backwards,
                      cudaStream_t stream) {
  constexpr std::size_t bytes = sizeof(StateTokens<rows_of_lane * parts>);
  const auto kernel = walk_from_zero<rows_of_lane, T>;
  metala::cuda::allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes);
  kernel<<<grid, threads, bytes, stream>>>(p, cut, backwards);
}

// f.template operator()<rows of a lane>() for a key width.
template <class F>
void with_rows(int key_width, F&& f) {
  if (key_width <= 32) return f.template operator()<8>();
  if (key_width <= 64) return f.template operator()<16>();
  if (key_width <= 128) return f.template operator()<32>();
  return f.template operator()<64>();
}

}  // namespace metala::metala_attention::cuda
