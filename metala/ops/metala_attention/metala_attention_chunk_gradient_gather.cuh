// The gradient within a chunk (metala_attention_chunk_gradient.cuh).
// The third: the gradients that decayed keys and queries get.
#pragma once

#include "metala/ops/metala_attention/metala_attention_chunk_gradient.cuh"

namespace metala::metala_attention::cuda {

template <int key_width, int value_width>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::store_dscores(
    const Columns& c) const {
#pragma unroll
  for (int n = 0; n < score_columns / 8; ++n) {
#pragma unroll
    for (int r = 0; r < 4; r += 2) {
      const int row = block * 16 + sum_row(r);
      const int column = group * score_columns + sum_column(n, r);
      if (column / 16 > block) continue;
      float pair[2] = {p.scale * c.dscores[n].at[r], p.scale * c.dscores[n].at[r + 1]};
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (column + e < row) continue;
        if (column + e == row) own_dscores()[row] = pair[e];
        pair[e] = 0;
      }
      put(dscores().at(row, column), make_float2(pair[0], pair[1]));
    }
  }
}

template <int key_width, int value_width>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::add_scaled(
    Sums* to, const float* factor, int from, const Sums* x) {
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const float2 f = at_channels(factor, from + sum_column(n, 0));
#pragma unroll
    for (int r = 0; r < 4; ++r) to[n].at[r] = fmaf(r % 2 == 0 ? f.x : f.y, x[n].at[r], to[n].at[r]);
  }
}

template <int key_width, int value_width>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::add_rows(
    Sums* to, const FragmentA& a, Tile<key_width> other, int row, int from) {
#pragma unroll
  for (int n = 0; n < 4; n += 2) {
    FragmentB b[2];
    other.as_b(row, from + n * 8, b);
    metala::cuda::multiply(to[n], a, b[0]);
    metala::cuda::multiply(to[n + 1], a, b[1]);
  }
}

template <int key_width, int value_width>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::store_sums(
    int kind, int from, const Sums* x) const {
#pragma unroll
  for (int n = 0; n < 4; ++n) {
#pragma unroll
    for (int r = 0; r < 4; r += 2) {
      *reinterpret_cast<float2*>(
          gradient_sum(kind, block * 16 + sum_row(r), from + sum_column(n, 0))) =
          make_float2(x[n].at[r], x[n].at[r + 1]);
    }
  }
}

template <int key_width, int value_width>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::gather_queries(
    int from, const Sums* dread) const {
  Sums all[4] = {};
  add_scaled(all, factors() + Rows::factor_row(block, 0) * key_width, from, dread);
  // What the block's tokens read from the state, summed over them, for the decays before.
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const int channel = from + sum_column(n, 0);
    float2 read = make_float2(0, 0);
#pragma unroll
    for (int r = 0; r < 4; r += 2) {
      read = fused(load_pair(query().at(block * 16 + sum_row(r), channel)),
                   make_float2(all[n].at[r], all[n].at[r + 1]), read);
    }
    read = make_float2(over_lanes(read.x, 4, 16), over_lanes(read.y, 4, 16));
    if (lane < 4) *reinterpret_cast<float2*>(reads() + block * key_width + channel) = read;
  }
  add_rows(all, dscores().as_a(block * 16, block * 16), key(), block * 16, from);
#pragma unroll
  for (int j = 0; j + 1 < block_count; ++j) {
    if (j >= block) continue;
    Sums some[4] = {};
    add_rows(some, dscores().as_a(block * 16, j * 16), key(), j * 16, from);
    add_scaled(all, factors() + Rows::factor_row(block, 1 + j) * key_width, from, some);
  }
  store_sums(0, from, all);
}

template <int key_width, int value_width>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::gather_keys(
    int from, const Sums* dwrite) const {
  Sums all[4] = {};
  add_scaled(all, to_end(block), from, dwrite);
  add_rows(all, dscores().transposed_as_a(block * 16, block * 16), query(), block * 16, from);
#pragma unroll
  for (int i = 1; i < block_count; ++i) {
    if (i <= block) continue;
    Sums some[4] = {};
    add_rows(some, dscores().transposed_as_a(block * 16, i * 16), query(), i * 16, from);
    add_scaled(all, factors() + Rows::factor_row(i, 1 + block) * key_width, from, some);
  }
  store_sums(1, from, all);
}

template <int key_width, int value_width>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::gather(
    const Columns& c) const {
  meetings()[block * key_width + group * 32 + lane] = c.meeting;
#pragma unroll
  for (int i = 0; i < parts; ++i) {
#pragma unroll
    for (int from = 0; from < part_channels; from += 32) {
      if (kind_of(i) == 0) {
        gather_queries(channel_of(i) + from, c.part[i] + from / 8);
      } else {
        gather_keys(channel_of(i) + from, c.part[i] + from / 8);
      }
    }
  }
}

}  // namespace metala::metala_attention::cuda
