// What the chunk forms work on, and which part of it a block takes.
#pragma once

#include "metala/ops/metala_attention/metala_attention_rows.cuh"

namespace metala::metala_attention::cuda {

struct Problem {
  const Bf16 *q, *u, *v;  // backwards v is dc, the gradient of the outputs
  std::int64_t q_stride, u_stride, v_stride, o_stride;
  const float* before;  // [B, H, K, D], or null; backwards the gradient of the
                        // state at the end
  Bf16* o;
  float* after;        // null: not wanted; backwards dS at the start is added
  Bf16* chunk_states;  // [chunk (chunk_place), H, K, D]; of outputs: null where not wanted
  // Of pieces of segments, when there are several in a sequence: [piece, B * H, K, D] and [.., K].
  // Joined, those of a segment's last piece become the state at its end (join_pieces).
  float* segment_states;
  float* segment_decays;
  const std::int64_t* offsets;
  int heads, batch, segments;
  int pieces;                   // of a segment, that the first pass takes side by side
  std::int64_t segment_tokens;  // a multiple of the chunk, as are pieces
  float inverse_temperature, scale;
};

// Where a chunk lies among those of all sequences: each sequence has room for a chunk of its own
// where the tokens before it end within one.
__device__ __forceinline__ std::int64_t chunk_place(const std::int64_t* offsets,
                                                    std::int64_t sequence) {
  return offsets[sequence] / chunk + sequence;
}

// What the first decay of a sequence's channel is of what it was counted as.
__device__ __forceinline__ float first_uncounted(const Problem& p, std::int64_t sequence, int head,
                                                 int key_width, int channel) {
  const std::int64_t first = p.offsets[sequence];
  if (first == p.offsets[sequence + 1]) return 1;
  const Bf16 u = p.u[first * p.u_stride + head * key_width + channel];
  return uncounted(metala::cuda::to_float(u), p.inverse_temperature);
}

// What a block works on: a head's slice of columns over a segment of a sequence, or a piece of one,
// of `length` tokens.
template <int key_width, int value_width>
struct Place {
  int head, column;
  std::int64_t sequence_head, sequence, first, tokens;
  int segment;
  bool last;  // of the sequence: the first segment of an empty one

  // Of B * H blocks along x, with their slice of columns along y.
  __device__ __forceinline__ Place(const Problem& p, int slice, int which, std::int64_t length)
      : Place(p, blockIdx.x, static_cast<int>(blockIdx.y) * slice, which, length) {}

  __device__ __forceinline__ Place(const Problem& p, std::int64_t head_of_all, int first_column,
                                   int which, std::int64_t length) {
    sequence_head = head_of_all;
    head = static_cast<int>(head_of_all % p.heads);
    segment = which;
    column = first_column;
    sequence = head_of_all / p.heads;
    const std::int64_t start = p.offsets[sequence] + segment * length;
    const std::int64_t end = p.offsets[sequence + 1];
    first = start;
    tokens = end > start ? end - start : 0;
    last = tokens > 0 ? tokens <= length : segment == 0;
    if (tokens > length) tokens = length;
  }
  __device__ __forceinline__ std::int64_t state_at(const Problem& p) const {
    return (static_cast<std::int64_t>(segment) * p.batch * p.heads + sequence_head) * key_width *
           value_width;
  }
};

}  // namespace metala::metala_attention::cuda
