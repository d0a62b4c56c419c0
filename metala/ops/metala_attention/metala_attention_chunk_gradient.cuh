// The gradient within one chunk of one head, from the state before it and the gradient of the state
// after it (metala_attention_chunk_backward_cuda.cu launches it). README.md, "The gradient in
// chunks", derives it.
#pragma once

#include "metala/device/cuda/ragged.cuh"
#include "metala/device/cuda/warpgroup.cuh"
#include "metala/ops/metala_attention/metala_attention_chunk.cuh"
#include "metala/ops/metala_attention/metala_attention_rows.cuh"

namespace metala::metala_attention::cuda {

struct GradientProblem {
  const Bf16 *q, *u, *v, *dmixed;  // dmixed [N, H * D]: of the outputs, without the scale
  std::int64_t q_stride, u_stride, v_stride;
  const Bf16 *states,
      *dstates;         // [chunk (chunk_place), H, K, D]: before it, and the gradient after
  const float* dscore;  // [N, H]: of the augmentation's scores; null: none
  const float* aug;     // [H * K]
  // Null where unwanted.
  Bf16 *dq, *du, *dv;
  std::int64_t dq_stride, du_stride, dv_stride;
  bool add, add_v;  // to dq and du, to dv: else they are written
  float* daug;      // [chunk (chunk_place), H * K]: this chunk's share, written
  const std::int64_t* offsets;
  int heads, batch;
  float inverse_temperature, scale;
};

__device__ __forceinline__ float2 unpacked(std::uint32_t both) {
  return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(both));
}

template <int key_width, int value_width>
struct ChunkGradient {
  using Rows = ChunkRows<key_width>;
  static constexpr int threads = Rows::threads;
  static constexpr int blocks_at_once = key_width <= 64 ? 2 : 1;     // on a multiprocessor
  static constexpr int slice = value_width < 64 ? value_width : 64;  // columns taken at once
  // Warpgroups: a warp has a block of 16 tokens, and of the gradients of queries and keys a part,
  // some channels of one; or more parts. Elsewhere a group of 32 channels.
  static constexpr int groups = threads / 128;
  static constexpr int part_channels = key_width < 64 ? key_width : 64;
  static constexpr int parts_of_kind = key_width / part_channels;
  static constexpr int parts = 2 * parts_of_kind / groups;  // of a warp
  static constexpr int score_columns = chunk / groups;
  static constexpr int dv_columns = slice / groups;
  // Slices in memory at once: the next is on its way where a block has the multiprocessor to
  // itself.
  static constexpr int buffers = blocks_at_once == 1 ? 2 : 1;

  // Shared memory, in bf16. Rows are tokens; channels in the states.
  using SliceTile = Tile<slice, true>;
  using WriteTile = Tile<part_channels, true>;  // one for each part of a kind
  static constexpr int key_tile = Tile<key_width>::bytes(chunk) / 2;
  static constexpr int score_tile = Tile<chunk, true>::bytes(chunk) / 2;
  static constexpr int dscore_tile = Tile<chunk>::bytes(chunk) / 2;
  static constexpr int write_tile = WriteTile::bytes(chunk) / 2;
  static constexpr int value_tile = SliceTile::bytes(chunk) / 2;
  static constexpr int state_tile = SliceTile::bytes(key_width) / 2;
  // Room for slices, then for sums in float32 and the scores' gradients.
  static constexpr int sum_stride = key_width + 8;
  static constexpr int sums = 2 * 2 * chunk * sum_stride;
  static constexpr int slice_tiles = 2 * (value_tile + state_tile);
  static constexpr int slices_room = buffers * slice_tiles;
  static constexpr int sums_room = sums + dscore_tile;
  static constexpr int room_needed = sums_room > slices_room ? sums_room : slices_room;
  static constexpr int room_size = (room_needed + 511) / 512 * 512;  // swizzled tiles follow
  static constexpr int elements = room_size + score_tile + parts_of_kind * write_tile +
                                  4 * key_tile + Rows::factor_rows * key_width;
  static constexpr int own_parts = key_width < 64 ? 1 : key_width / 64;
  // Tables in float32 by channel: of each_factor; what is kept from a block's middle to the
  // chunk's end; totals of runs; shares of sums over tokens.
  static constexpr int floats =
      (Rows::factor_rows + block_count + 2 * run_count + 2 * block_count + 1) * key_width +
      (2 + 2 * own_parts) * chunk;
  static constexpr std::size_t bytes = 2 * elements + 4 * floats;

  const GradientProblem& p;
  Bf16* const memory;
  float* const numbers;
  const Rows rows;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int block = static_cast<int>(threadIdx.x) / 32 % 4;  // of tokens, the warp's
  const int group = static_cast<int>(threadIdx.x) / 128;     // its warpgroup
  int head;
  std::int64_t place, first;  // of the chunk, of its first token
  int tokens;                 // 0: there is no such chunk

  __device__ __forceinline__ ChunkGradient(const GradientProblem& problem, Bf16* shared)
      : p(problem),
        memory(shared),
        numbers(reinterpret_cast<float*>(shared + elements)),
        rows{.totals = numbers + (Rows::factor_rows + block_count) * key_width} {
    head = static_cast<int>(blockIdx.x) % p.heads;
    place = static_cast<std::int64_t>(blockIdx.x) / p.heads;
    // The last sequence whose chunks begin at this place or before it.
    const std::int64_t sequence = metala::cuda::last_where(
        p.batch, [&](std::int64_t i) { return chunk_place(p.offsets, i) <= place; });
    first = p.offsets[sequence] + (place - chunk_place(p.offsets, sequence)) * chunk;
    const std::int64_t left = p.offsets[sequence + 1] - first;
    tokens = static_cast<int>(left < 0 ? 0 : left < chunk ? left : chunk);
  }

  __device__ __forceinline__ Bf16* room() const { return memory; }
  __device__ __forceinline__ Tile<chunk, true> scores() const { return {room() + room_size}; }
  // Decayed to the chunk's end.
  __device__ __forceinline__ WriteTile write(int part) const {
    return {scores().data + score_tile + part * write_tile};
  }
  __device__ __forceinline__ Tile<key_width> by_token(int i) const {
    return {write(parts_of_kind).data + i * key_tile};
  }
  __device__ __forceinline__ Tile<key_width> q() const { return by_token(0); }
  __device__ __forceinline__ Tile<key_width> u() const { return by_token(1); }
  // Decayed from and to the middle of their block.
  __device__ __forceinline__ Tile<key_width> query() const { return by_token(2); }
  __device__ __forceinline__ Tile<key_width> key() const { return by_token(3); }
  __device__ __forceinline__ Bf16* rounded_factors() const { return by_token(4).data; }
  __device__ __forceinline__ Tile<chunk> dscores() const { return {room() + sums}; }
  // Of queries (0) and keys (1): the gradients that rows of query() and key() get, in float32.
  __device__ __forceinline__ float* gradient_sum(int which, int t, int channel) const {
    return reinterpret_cast<float*>(room()) + (which * chunk + t) * sum_stride + channel;
  }
  __device__ __forceinline__ float* factors() const { return numbers; }
  __device__ __forceinline__ float* to_end(int i) const {
    return numbers + (Rows::factor_rows + i) * key_width;
  }
  // [runs, K]: of passing shares, after the totals of bits; then of daug.
  __device__ __forceinline__ float* run_sums() const { return rows.totals + run_count * key_width; }
  // [blocks, K]: shares of what the chunk's tokens read from the state; of S . dS.
  __device__ __forceinline__ float* reads() const { return run_sums() + run_count * key_width; }
  __device__ __forceinline__ float* meetings() const { return reads() + block_count * key_width; }
  __device__ __forceinline__ float* kept() const { return meetings() + block_count * key_width; }
  // [tokens]: gradients of a token's score with its own key, and of the augmentation's scores. From
  // 64 channels each: the scores with a token's own key, and with the one before it.
  __device__ __forceinline__ float* own_dscores() const { return kept() + key_width; }
  __device__ __forceinline__ float* dscore() const { return own_dscores() + chunk; }
  __device__ __forceinline__ float* own_scores() const { return dscore() + chunk; }
  __device__ __forceinline__ float* past_scores() const { return own_scores() + own_parts * chunk; }

  // ---- First: keys, queries, factors, scores.
  template <int width, bool swizzled>
  __device__ __forceinline__ void fetch_rows(Tile<width, swizzled> to, const Bf16* from,
                                             std::int64_t stride, int count, int real) const {
    constexpr int packs = width / 8;
    constexpr int at_once = threads / packs;
    const int own = static_cast<int>(threadIdx.x) / packs;
    const int at = static_cast<int>(threadIdx.x) % packs * 8;
    const Bf16* row = from + own * stride + at;
#pragma unroll
    for (int t = 0; t < count; t += at_once) {
      const bool exists = own + t < real;
      metala::cuda::copy_async(to.at(own + t, at), exists ? row : from, exists);
      row += at_once * stride;
    }
  }

  // A token's scores with its own key and with the one before it are kept from rounding: where the
  // state is new everywhere, or was for the token before, they are all there is. Summed over a
  // run's lanes, each of which ends with one of the run's numbers; token(j) is the one that number
  // j is of.
  static constexpr int run_lanes = Rows::pairs < 32 ? Rows::pairs : 32;
  template <class Token>
  __device__ __forceinline__ void store_scores(float (&x)[run_tokens], float* to,
                                               Token token) const {
    int j = 0;
    int distance = run_lanes / 2;
#pragma unroll
    for (int n = run_tokens / 2; n > 0; n /= 2, distance /= 2) {
      const bool high = (lane & distance) != 0;
#pragma unroll
      for (int i = 0; i < n; ++i) {
        const float given = high ? x[i] : x[i + n];
        x[i] = (high ? x[i + n] : x[i]) + __shfl_xor_sync(0xffffffffu, given, distance);
      }
      if (high) j += n;
    }
    for (; distance > 0; distance /= 2) x[0] += __shfl_xor_sync(0xffffffffu, x[0], distance);
    if (lane % (run_lanes / run_tokens) == 0) to[rows.channel / 64 * chunk + token(j)] = x[0];
  }
  static __device__ __forceinline__ float over_channels(const float* scores, int t) {
    float score = scores[t];
#pragma unroll
    for (int c = 1; c < key_width / 64; ++c) score += scores[c * chunk + t];
    return score;
  }

  // What the key before a run leaves to the run's first token, times its query.
  __device__ __forceinline__ float first_past_score(float2 logit, float2 query) const {
    const int t = rows.own_run * run_tokens;
    if (t == 0 || t >= tokens) return 0;
    const float2 past = load_pair(u().at(t - 1, rows.channel));
    const auto term = [&](float own, float before, float q) {
      const float kept = exp2f_fast(-bit_gate(own, p.inverse_temperature).bits);
      return q * kept * bit_gate(before, p.inverse_temperature).lose;
    };
    return term(logit.x, past.x, query.x) + term(logit.y, past.y, query.y);
  }

  __device__ __forceinline__ void prepare() const {
    rows.open_beyond(tokens, u());
    // Blocks of scores that are no pairs.
    for (int i = static_cast<int>(threadIdx.x) * 8; i < score_tile; i += threads * 8) {
      *reinterpret_cast<uint4*>(scores().data + i) = make_uint4(0, 0, 0, 0);
    }
    Run logits, queries, own;
    rows.load(u(), logits);
    rows.load(q(), queries);
    float with_own[run_tokens], with_past[run_tokens];
    with_past[0] = first_past_score(rows.upper ? logits[0] : logits[run_tokens - 1],
                                    rows.upper ? queries[0] : queries[run_tokens - 1]);
    float2 past_query = make_float2(0, 0);
    const auto dot = [](float2 a, float2 b) { return fmaf(a.x, b.x, a.y * b.y); };
    rows.decay(logits, queries, p.inverse_temperature,
               [&](int j, float2 decayed_key, float2 decayed_query) {
                 own[j] = decayed_key;
                 with_own[j] = dot(decayed_key, decayed_query);
                 // The walk goes up from the middle, or down.
                 if (j > 0) {
                   with_past[j] =
                       rows.upper ? dot(own[j - 1], decayed_query) : dot(decayed_key, past_query);
                 }
                 past_query = decayed_query;
                 put(key().at(rows.token(j), rows.channel), decayed_key);
                 put(query().at(rows.token(j), rows.channel), decayed_query);
               });
    store_scores(with_own, own_scores(), [&](int j) { return rows.token(j); });
    store_scores(with_past, past_scores(), [&](int j) {
      return rows.own_run * run_tokens + (rows.upper ? j : (run_tokens - j) % run_tokens);
    });
    __syncthreads();
    const auto bits = rows.bits();
    const float2 rest = power(difference(bits.here, bits.end));
#pragma unroll
    for (int j = 0; j < run_tokens; ++j) {
      put(write(rows.channel / part_channels).at(rows.token(j), rows.channel % part_channels),
          product(own[j], rest));
    }
    rows.each_factor(bits, p.scale, [&](int row, float2 value) {
      *reinterpret_cast<float2*>(factors() + row * key_width + rows.channel) = value;
      put(rounded_factors() + row * key_width + rows.channel, value);
    });
    if (rows.upper) {
      *reinterpret_cast<float2*>(to_end(rows.own_run / 2) + rows.channel) = rest;
    } else if (rows.own_run == 0) {
      *reinterpret_cast<float2*>(kept() + rows.channel) = power(times(-1, bits.end));
    }
    __syncthreads();
    Queries<key_width> of_block;
    of_block.load(query(), block * 16);
    of_block.find_scores(key(), scores(), rounded_factors(), p.scale, block, group, groups,
                         [&](int t, int s, float) {
                           return over_channels(t == s ? own_scores() : past_scores(), t);
                         });
  }

  // ---- Second: everything with columns of the state, slice by slice. Kind 0 is the gradients of
  // queries, 1 that of keys. The warp's results are for its block's tokens.
  struct Columns {
    Sums part[parts][part_channels / 8];  // of S dc or dS v
    float meeting;                        // S . dS, of the group's channel of the lane's number
    Sums dscores[score_columns / 8];      // with tokens from group * score_columns on
  };
  __device__ __forceinline__ int kind_of(int part) const {
    return (group * parts + part) / parts_of_kind;
  }
  __device__ __forceinline__ int channel_of(int part) const {
    return (group * parts + part) % parts_of_kind * part_channels;
  }

  struct Slice {
    SliceTile v, dmixed, state, dstate;
  };
  __device__ __forceinline__ Slice slice_at(int column) const {
    Bf16* const at = room() + column / slice % buffers * slice_tiles;
    return {{at}, {at + value_tile}, {at + 2 * value_tile}, {at + 2 * value_tile + state_tile}};
  }
  __device__ __forceinline__ void fetch_slice(int column) const {
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

  __device__ __forceinline__ void add_products(const Slice& in, Columns& c) const {
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
      const uint4 s =
          *reinterpret_cast<const uint4*>(in.state.at(group * 32 + lane, block * 16 + d));
      const uint4 ds =
          *reinterpret_cast<const uint4*>(in.dstate.at(group * 32 + lane, block * 16 + d));
      const float2 sums = fused(
          unpacked(s.x), unpacked(ds.x),
          fused(unpacked(s.y), unpacked(ds.y),
                fused(unpacked(s.z), unpacked(ds.z), product(unpacked(s.w), unpacked(ds.w)))));
      c.meeting += sums.x + sums.y;
    }
  }

  // dv = or += scores^T dc + write dS, for the warp's tokens and the warpgroup's columns.
  __device__ __forceinline__ void store_dv(const Slice& in, int column) const {
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

  // The first is on its way already. Copies under way would delay what is shown to products.
  __device__ __forceinline__ void take_slices(Columns& c) const {
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

  // ---- Third: the gradients that decayed keys and queries get.

  // The scores' gradients; a token's own aside.
  __device__ __forceinline__ void store_dscores(const Columns& c) const {
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

  // Below, 32 channels from `from`, in tiles of 8 columns: two of a lane's in a table.
  static __device__ __forceinline__ float2 at_channels(const float* table, int channel) {
    return *reinterpret_cast<const float2*>(table + channel);
  }
  // to += factor x, channel by channel.
  static __device__ __forceinline__ void add_scaled(Sums* to, const float* factor, int from,
                                                    const Sums* x) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float2 f = at_channels(factor, from + sum_column(n, 0));
#pragma unroll
      for (int r = 0; r < 4; ++r)
        to[n].at[r] = fmaf(r % 2 == 0 ? f.x : f.y, x[n].at[r], to[n].at[r]);
    }
  }
  static __device__ __forceinline__ void add_rows(Sums* to, const FragmentA& a,
                                                  Tile<key_width> other, int row, int from) {
#pragma unroll
    for (int n = 0; n < 4; n += 2) {
      FragmentB b[2];
      other.as_b(row, from + n * 8, b);
      metala::cuda::multiply(to[n], a, b[0]);
      metala::cuda::multiply(to[n + 1], a, b[1]);
    }
  }
  __device__ __forceinline__ void store_sums(int kind, int from, const Sums* x) const {
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
  static __device__ __forceinline__ float over_lanes(float x, int from, int to) {
    for (int distance = from; distance <= to; distance *= 2) {
      x += __shfl_xor_sync(0xffffffffu, x, distance);
    }
    return x;
  }

  // What decayed queries get: dread from the chunk's start, and the scores' gradients by keys.
  __device__ __forceinline__ void gather_queries(int from, const Sums* dread) const {
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

  // What decayed keys get, likewise.
  __device__ __forceinline__ void gather_keys(int from, const Sums* dwrite) const {
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

  __device__ __forceinline__ void gather(const Columns& c) const {
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

  // ---- Fourth: from there to q and u, run by run again. What passes through a token's decay is
  // what all that came before it has to pass on, less what was read on the way: the sum over
  // earlier tokens of written minus read, and what the state brought in.
  __device__ __forceinline__ float2 sum_at(int which, int t) const {
    return *reinterpret_cast<const float2*>(gradient_sum(which, t, rows.channel));
  }
  // What a token reads less what it writes; its own key is neither.
  __device__ __forceinline__ float2 balance(int t) const {
    const float2 read = product(load_pair(query().at(t, rows.channel)), sum_at(0, t));
    const float2 written = product(load_pair(key().at(t, rows.channel)), sum_at(1, t));
    return difference(read, written);
  }

  // dq and du go where q and u lay; a thread owns the same elements of all.
  __device__ __forceinline__ void finish() const {
    Run logits, queries, balances;
    rows.load(u(), logits);
    rows.load(q(), queries);
    float2 total = make_float2(0, 0);
#pragma unroll
    for (int j = 0; j < run_tokens; ++j) {
      balances[j] = balance(rows.token(j));
      total = sum(total, balances[j]);
    }
    *reinterpret_cast<float2*>(run_sums() + rows.own_run * key_width + rows.channel) = total;
    __syncthreads();
    float2 passing = make_float2(0, 0);
    float2 meeting = make_float2(0, 0);
#pragma unroll
    for (int i = 0; i < block_count; ++i) {
      passing = sum(passing, at_channels(reads() + i * key_width, rows.channel));
      meeting = sum(meeting, at_channels(meetings() + i * key_width, rows.channel));
    }
    passing = fused(at_channels(kept(), rows.channel), meeting, passing);
#pragma unroll 1
    for (int r = 0; r < rows.own_run; ++r) {
      passing = difference(passing, at_channels(run_sums() + r * key_width, rows.channel));
    }
    // The walk goes outwards from the middle: before it, from the run's end back.
    const float back = rows.upper ? 0.0f : 1.0f;
    passing = fused(make_float2(-back, -back), total, passing);
    float2 daug = make_float2(0, 0);
    const float2 aug = p.dscore != nullptr ? at_channels(p.aug + head * key_width, rows.channel)
                                           : make_float2(0, 0);
    rows.walk(
        logits, p.inverse_temperature, [&](int j, float2 bits, const BitGate& x, const BitGate& y) {
          const int t = rows.token(j);
          const float2 key = make_float2(x.lose, y.lose);
          const float own = own_dscores()[t];
          const float score = dscore()[t];
          const float2 pull = make_float2(fmaf(score, aug.x, own), fmaf(score, aug.y, own));
          daug = fused(times(score, key), queries[j], daug);
          const float2 dq = fused(power(bits), sum_at(0, t), product(pull, key));
          const float2 dk = fused(power(times(-1, bits)), sum_at(1, t), product(pull, queries[j]));
          const float2 through = fused(make_float2(back, back), balances[j], passing);
          passing = fused(make_float2(2 * back - 1, 2 * back - 1), balances[j], passing);
          put(q().at(t, rows.channel), dq);
          put(u().at(t, rows.channel), make_float2(gate_gradient(logits[j].x, x, through.x, dk.x),
                                                   gate_gradient(logits[j].y, y, through.y, dk.y)));
        });
    __syncthreads();
    if (p.dq != nullptr) store_rows(q(), p.dq + first * p.dq_stride, p.dq_stride);
    if (p.du != nullptr) store_rows(u(), p.du + first * p.du_stride, p.du_stride);
    if (p.daug == nullptr) return;
    *reinterpret_cast<float2*>(run_sums() + rows.own_run * key_width + rows.channel) = daug;
    __syncthreads();
    const int own = static_cast<int>(threadIdx.x);
    if (own >= key_width) return;
    float all = 0;
#pragma unroll
    for (int r = 0; r < run_count; ++r) all += run_sums()[r * key_width + own];
    p.daug[(place * p.heads + head) * key_width + own] = all;
  }

  // From what passes through a decay, and the gradient of the key.
  __device__ __forceinline__ float gate_gradient(float logit, const BitGate& gate, float passing,
                                                 float dk) const {
    const float keep = 1 - gate.lose;
    // Where fewer bits were counted than the decay costs, what passed was too much.
    const float passed = passing * fminf(1, keep * exp2f(most_bits));
    return (passed - keep * dk) * gate.closed(logit) * p.inverse_temperature;
  }

  __device__ __forceinline__ void store_rows(Tile<key_width> from, Bf16* to,
                                             std::int64_t stride) const {
    using Row = metala::cuda::Pack<Bf16>;
    constexpr int packs = key_width / Row::size;
    constexpr int at_once = threads / packs;
    const int own = static_cast<int>(threadIdx.x) / packs;
    const int at = static_cast<int>(threadIdx.x) % packs * Row::size;
    Bf16* row = to + own * stride + head * key_width + at;
#pragma unroll
    for (int t = 0; t < chunk; t += at_once) {
      if (own + t >= tokens) return;
      Row more = *reinterpret_cast<const Row*>(from.at(own + t, at));
      if (p.add) {
        const Row there = *reinterpret_cast<const Row*>(row);
#pragma unroll
        for (int j = 0; j < Row::size; ++j) {
          more.at[j] =
              __float2bfloat16_rn(__bfloat162float(there.at[j]) + __bfloat162float(more.at[j]));
        }
      }
      *reinterpret_cast<Row*>(row) = more;
      row += at_once * stride;
    }
  }

  __device__ __forceinline__ void run_chunk() const {
    const int own = static_cast<int>(threadIdx.x);
    if (tokens == 0) {
      if (p.daug != nullptr && own < key_width) {
        p.daug[(place * p.heads + head) * key_width + own] = 0;
      }
      return;
    }
    const std::int64_t at = head * key_width;
    fetch_rows(q(), p.q + first * p.q_stride + at, p.q_stride, chunk, tokens);
    fetch_rows(u(), p.u + first * p.u_stride + at, p.u_stride, chunk, tokens);
    metala::cuda::commit_copies();
    fetch_slice(0);
    for (int t = own; t < chunk; t += threads) {
      dscore()[t] = p.dscore != nullptr && t < tokens ? p.dscore[(first + t) * p.heads + head] : 0;
    }
    metala::cuda::wait_for_copies<1>();
    __syncthreads();
    prepare();
    Columns c = {};
    take_slices(c);
    store_dscores(c);
    __syncthreads();
    gather(c);
    __syncthreads();
    finish();
  }
};

}  // namespace metala::metala_attention::cuda
