// Between a pass over the pieces of sequences and one over their segments: what the pieces add, one
// after the other.
#pragma once

#include "metala/ops/metala_attention/metala_attention_place.cuh"

namespace metala::metala_attention::cuda {

constexpr int join_threads = 128;

// A thread for a pair of a state's elements: B * H blocks along x, the pairs along y. The state at
// the end of every segment but the last takes the place of what its last piece adds; backwards from
// the other end.
template <int key_width, int value_width>
__global__ void __launch_bounds__(join_threads) join_pieces(const Problem p, bool backwards) {
  constexpr int at_once = 16;  // pieces whose sums are on their way
  const std::int64_t heads = static_cast<std::int64_t>(p.batch) * p.heads;
  const int element = static_cast<int>(blockIdx.y * join_threads + threadIdx.x) * 2;
  const std::int64_t own =
      static_cast<std::int64_t>(blockIdx.x) * key_width * value_width + element;
  const std::int64_t own_decay =
      static_cast<std::int64_t>(blockIdx.x) * key_width + element / value_width;
  const int count = (p.segments - 1) * p.pieces;
  const auto piece = [&](int i) { return (backwards ? p.segments * p.pieces - 1 - i : i) * heads; };
  const auto state_of = [&](int i) {
    return reinterpret_cast<float2*>(p.segment_states + piece(i) * key_width * value_width + own);
  };
  float2 state = make_float2(0, 0);
  if (p.before != nullptr) state = *reinterpret_cast<const float2*>(p.before + own);
  for (int first = 0; first < count; first += at_once) {
    float2 added[at_once];
    float kept[at_once];
#pragma unroll
    for (int j = 0; j < at_once; ++j) {
      if (first + j >= count) break;
      added[j] = *state_of(first + j);
      kept[j] = p.segment_decays[piece(first + j) * key_width + own_decay];
    }
#pragma unroll
    for (int j = 0; j < at_once; ++j) {
      if (first + j >= count) break;
      state.x = fmaf(kept[j], state.x, added[j].x);
      state.y = fmaf(kept[j], state.y, added[j].y);
      if ((first + j + 1) % p.pieces == 0) *state_of(first + j) = state;
    }
  }
}

template <int key_width, int value_width>
void launch_join(const Problem& p, bool backwards, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.batch * p.heads),
                  key_width * value_width / (2 * join_threads));
  join_pieces<key_width, value_width><<<grid, join_threads, 0, stream>>>(p, backwards);
}

}  // namespace metala::metala_attention::cuda
