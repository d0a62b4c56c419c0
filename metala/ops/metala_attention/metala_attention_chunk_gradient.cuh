// The gradient within one chunk of one head, from the state before it and the gradient of the state
// after it (metala_attention_chunk_backward_cuda.cu launches it). README.md, "The gradient in
// chunks", derives it.
#pragma once

#include "metala/device/cuda/ragged.cuh"
#include "metala/device/cuda/warpgroup.cuh"
#include "metala/ops/metala_attention/metala_attention_place.cuh"
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

  // ---- First: keys, queries, factors, scores (_scores.cuh).
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
                                               Token token) const;
  static __device__ __forceinline__ float over_channels(const float* scores, int t) {
    float score = scores[t];
#pragma unroll
    for (int c = 1; c < key_width / 64; ++c) score += scores[c * chunk + t];
    return score;
  }
  // What the key before a run leaves to the run's first token, times its query.
  __device__ __forceinline__ float first_past_score(float2 logit, float2 query) const;
  __device__ __forceinline__ void prepare() const;

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
  __device__ __forceinline__ void fetch_slice(int column) const;
  __device__ __forceinline__ void add_products(const Slice& in, Columns& c) const;
  // dv = or += scores^T dc + write dS, for the warp's tokens and the warpgroup's columns.
  __device__ __forceinline__ void store_dv(const Slice& in, int column) const;
  // The first is on its way already. Copies under way would delay what is shown to products.
  __device__ __forceinline__ void take_slices(Columns& c) const;

  // ---- Third: the gradients that decayed keys and queries get.
  // The scores' gradients; a token's own aside.
  __device__ __forceinline__ void store_dscores(const Columns& c) const;
  // Below, 32 channels from `from`, in tiles of 8 columns: two of a lane's in a table.
  static __device__ __forceinline__ float2 at_channels(const float* table, int channel) {
    return *reinterpret_cast<const float2*>(table + channel);
  }
  // to += factor x, channel by channel.
  static __device__ __forceinline__ void add_scaled(Sums* to, const float* factor, int from,
                                                    const Sums* x);
  static __device__ __forceinline__ void add_rows(Sums* to, const FragmentA& a,
                                                  Tile<key_width> other, int row, int from);
  __device__ __forceinline__ void store_sums(int kind, int from, const Sums* x) const;
  static __device__ __forceinline__ float over_lanes(float x, int from, int to) {
    for (int distance = from; distance <= to; distance *= 2) {
      x += __shfl_xor_sync(0xffffffffu, x, distance);
    }
    return x;
  }
  // What decayed queries get: dread from the chunk's start, and the scores' gradients by keys.
  __device__ __forceinline__ void gather_queries(int from, const Sums* dread) const;
  // What decayed keys get, likewise.
  __device__ __forceinline__ void gather_keys(int from, const Sums* dwrite) const;
  __device__ __forceinline__ void gather(const Columns& c) const;

  // ---- Fourth: from there to q and u (_finish.cuh).
  __device__ __forceinline__ float2 sum_at(int which, int t) const {
    return *reinterpret_cast<const float2*>(gradient_sum(which, t, rows.channel));
  }
  // What a token reads less what it writes; its own key is neither.
  __device__ __forceinline__ float2 balance(int t) const;
  // dq and du go where q and u lay; a thread owns the same elements of all.
  __device__ __forceinline__ void finish() const;
  // From what passes through a decay, and the gradient of the key.
  __device__ __forceinline__ float gate_gradient(float logit, const BitGate& gate, float passing,
                                                 float dk) const;
  __device__ __forceinline__ void store_rows(Tile<key_width> from, Bf16* to,
                                             std::int64_t stride) const;

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

// What is declared above, part by part.
#include "metala/ops/metala_attention/metala_attention_chunk_gradient_finish.cuh"
#include "metala/ops/metala_attention/metala_attention_chunk_gradient_gather.cuh"
#include "metala/ops/metala_attention/metala_attention_chunk_gradient_scores.cuh"
#include "metala/ops/metala_attention/metala_attention_chunk_gradient_slices.cuh"
