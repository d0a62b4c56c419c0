// The gradient within a chunk (metala_attention_chunk_gradient.cuh).
// The second: everything with columns of the state, slice by slice.
#pragma once

#include "metala/ops/metala_attention/metala_attention_chunk_gradient.cuh"

namespace metala::metala_attention::cuda {

template <int key_width, int value_width>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::fetch_slice(
    int column) const {
  if (column < value_width) {
    const Slice to = slice_at(column);
    const int width = p.heads * value_width;
    const std::int64_t at = head * value_width + column;
    const std::int64_t state_at = (place * p.heads + head) * key_width * value_width + column;
    fetch_rows(to.v, p.v + first * p.v_stride + at, p.v_stride, chunk, tokens);
    fetch_rows(to.dmixed, p.dmixed + first * width + at, width, chunk, tokens);
    fetch_rows(to.state, p.states + state_at, value_width, key_width, key_width);
    fetch_rows(to.dstate, p.dstates + state_at, value_width, key_width, key_width);
  }
  metala::cuda::commit_copies();
}

template <int key_width, int value_width>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::add_products(
    const Slice& in, Columns& c) const {
  using metala::cuda::add_product;
  constexpr int steps = slice / 16;
  metala::cuda::begin_products();
  const SliceTile own_values = {in.v.data + group * score_columns * slice};
  add_product<false, false, steps>(c.dscores, in.dmixed, own_values);
#pragma unroll
  for (int i = 0; i < parts; ++i) {
    const bool keys = kind_of(i) == 1;
    const SliceTile states = {(keys ? in.dstate : in.state).data + channel_of(i) * slice};
    add_product<false, false, steps>(c.part[i], keys ? in.v : in.dmixed, states);
  }
  metala::cuda::finish_products();
  // A lane takes a channel of the group, a warp 16 columns.
  if (block * 16 >= slice) return;
#pragma unroll
  for (int d = 0; d < 16; d += 8) {
    const uint4 s = *reinterpret_cast<const uint4*>(in.state.at(group * 32 + lane, block * 16 + d));
    const uint4 ds =
        *reinterpret_cast<const uint4*>(in.dstate.at(group * 32 + lane, block * 16 + d));
    const float2 sums =
        fused(unpacked(s.x), unpacked(ds.x),
              fused(unpacked(s.y), unpacked(ds.y),
                    fused(unpacked(s.z), unpacked(ds.z), product(unpacked(s.w), unpacked(ds.w)))));
    c.meeting += sums.x + sums.y;
  }
}

template <int key_width, int value_width>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::store_dv(const Slice& in,
                                                                                int column) const {
  using metala::cuda::add_product;
  const int from = group * dv_columns;
  Bf16* const to = p.dv + (first + block * 16) * p.dv_stride + head * value_width + column + from;
  const auto pair = [&](int n, int r) {
    return reinterpret_cast<std::uint32_t*>(to + sum_row(r) * p.dv_stride + sum_column(n, 0));
  };
  const auto real = [&](int r) { return block * 16 + sum_row(r) < tokens; };
  // What is there already is on its way while the products run.
  std::uint32_t past[dv_columns / 8][2];
#pragma unroll
  for (int n = 0; n < dv_columns / 8; ++n) {
#pragma unroll
    for (int r = 0; r < 4; r += 2) past[n][r / 2] = p.add_v && real(r) ? *pair(n, r) : 0;
  }
  Sums sums[dv_columns / 8] = {};
  metala::cuda::begin_products();
  add_product<true, true, chunk / 16>(sums, scores(), in.dmixed, from);
#pragma unroll
  for (int i = 0; i < parts_of_kind; ++i) {
    const SliceTile gradients = {in.dstate.data + i * part_channels * slice};
    add_product<false, true, part_channels / 16>(sums, write(i), gradients, from);
  }
  metala::cuda::finish_products();
#pragma unroll
  for (int n = 0; n < dv_columns / 8; ++n) {
#pragma unroll
    for (int r = 0; r < 4; r += 2) {
      const float2 before = unpacked(past[n][r / 2]);
      if (real(r)) {
        *pair(n, r) = packed(before.x + sums[n].at[r], before.y + sums[n].at[r + 1]);
      }
    }
  }
}

template <int key_width, int value_width>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::take_slices(
    Columns& c) const {
  for (int column = 0; column < value_width; column += slice) {
    metala::cuda::wait_for_copies<0>();
    metala::cuda::show_to_products();
    __syncthreads();
    if (buffers > 1) fetch_slice(column + slice);
    const Slice in = slice_at(column);
    add_products(in, c);
    if (p.dv != nullptr) store_dv(in, column);
    if (buffers > 1 && column + slice < value_width) continue;
    __syncthreads();
    if (buffers == 1) fetch_slice(column + slice);
  }
}

}  // namespace metala::metala_attention::cuda
