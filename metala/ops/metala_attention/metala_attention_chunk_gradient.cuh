// The gradient within one chunk of one head, from the state before it and the gradient of the state
// after it (metala_attention_chunk_backward_cuda.cu launches it). README.md, "The gradient in
// chunks", derives it.
//
// Here channels are rows and tokens columns. A warp owns 16 channels of half the chunk's tokens:
// the four lanes of a quad share a channel's 32 tokens, so all sums and products along tokens are a
// few exchanges between them; and what a lane holds is at once the sums of one product and an
// operand of the next.
#pragma once

#include "metala/device/cuda/mma.cuh"
#include "metala/ops/metala_attention/metala_attention_chunk.cuh"

namespace metala::metala_attention::cuda {

struct GradientProblem {
  const Bf16 *q, *u, *v, *dmixed;  // dmixed [N, H * D]: of the outputs, without the scale
  std::int64_t q_stride, u_stride, v_stride;
  const Bf16 *states,
      *dstates;         // [chunk (chunk_place), H, K, D]: before it, and the gradient after
  const float* dscore;  // [N, H]: of the augmentation's scores; null: none
  const float* aug;     // [H * K]
  // Added to, null where unwanted.
  Bf16 *dq, *du, *dv;
  std::int64_t dq_stride, du_stride, dv_stride;
  bool add;     // to dq and du: else they are written; dv is added to
  float* daug;  // [chunk (chunk_place), H * K]: this chunk's share, written
  const std::int64_t* offsets;
  int heads, batch;
  float inverse_temperature, scale;
};

__device__ __forceinline__ float2 unpacked(std::uint32_t both) {
  return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(both));
}

// 32 tokens of 16 channels in eights of tokens, as a tensor core's sums: a lane holds channels
// lane / 4 (elements 0, 1 of an eight) and lane / 4 + 8 (2, 3), tokens 2 (lane % 4) and the next.
struct Part {
  Sums eight[4];
  __device__ float& at(int i, int r) { return eight[i].at[r]; }
  __device__ float at(int i, int r) const { return eight[i].at[r]; }

  static __device__ __forceinline__ Part filled(float x) {
    Part part;
#pragma unroll
    for (Sums& s : part.eight) s = {{x, x, x, x}};
    return part;
  }
  // Tokens 16 f .. 16 f + 15 as a 16 x 16 operand, and from one.
  __device__ __forceinline__ FragmentA rounded(int f) const {
    const float* a = eight[2 * f].at;
    const float* b = eight[2 * f + 1].at;
    return {{packed(a[0], a[1]), packed(a[2], a[3]), packed(b[0], b[1]), packed(b[2], b[3])}};
  }
  __device__ __forceinline__ void take(int f, const FragmentA& from) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 both = unpacked(from.r[i]);
      eight[2 * f + i / 2].at[i % 2 * 2] = both.x;
      eight[2 * f + i / 2].at[i % 2 * 2 + 1] = both.y;
    }
  }
};

// What one lane adds to a quad's sum, for each of its two channels.
struct Pair {
  float at[2];
};

__device__ __forceinline__ float exchanged(float x, int distance) {
  return __shfl_xor_sync(0xffffffffu, x, distance);
}

__device__ __forceinline__ float quad_sum(float x) {
  x += exchanged(x, 1);
  return x + exchanged(x, 2);
}

template <int key_width, int value_width>
struct ChunkGradient {
  static constexpr int channel_tiles = key_width / 16;
  static constexpr int warps = 2 * channel_tiles;
  static constexpr int threads = 32 * warps;
  static constexpr int blocks_at_once = key_width <= 64 ? 2 : 1;     // on a multiprocessor
  static constexpr int slice = value_width < 64 ? value_width : 64;  // columns taken at once
  static constexpr int column_groups = warps / 4;  // of a slice: four warps take 16 tokens each
  static constexpr int columns = slice / column_groups;
  static constexpr int pair_tiles = (10 + warps - 1) / warps;  // of a warp: see pair_tile()

  // Shared memory, in bf16. Rows are tokens in the first two and in `weights` [t, s]; channels in
  // key, write and levels [channel, token].
  static constexpr int token_tile = Tile<key_width>::bytes(chunk) / 2;
  static constexpr int channel_tile = Tile<chunk>::bytes(key_width) / 2;
  static constexpr int square_tile = Tile<chunk>::bytes(chunk) / 2;
  static constexpr int value_tile = Tile<slice>::bytes(chunk) / 2;
  static constexpr int state_tile = Tile<slice>::bytes(key_width) / 2;
  // Room for five levels, then for a slice, then for the scores' gradients and what threads put
  // aside.
  static constexpr int put_aside = 2 * 32 * threads;  // 32 floats for each thread
  static constexpr int most(int a, int b) { return a > b ? a : b; }
  static constexpr int room_size =
      most(5 * channel_tile, most(2 * (value_tile + state_tile), square_tile + put_aside));
  static constexpr int elements = 2 * token_tile + 3 * channel_tile + square_tile + room_size;
  static constexpr int floats = 2 * key_width + 4 * key_width + chunk;
  static constexpr std::size_t bytes = 2 * elements + 4 * floats;

  const GradientProblem& p;
  Bf16* const memory;
  float* const numbers;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first_channel = warp % channel_tiles * 16;
  const int half = warp / channel_tiles;  // of the chunk's tokens
  int head;
  std::int64_t place, first;  // of the chunk, of its first token
  int tokens;                 // 0: there is no such chunk

  __device__ __forceinline__ ChunkGradient(const GradientProblem& problem, Bf16* shared)
      : p(problem), memory(shared), numbers(reinterpret_cast<float*>(shared + elements)) {
    head = static_cast<int>(blockIdx.x) % p.heads;
    place = static_cast<std::int64_t>(blockIdx.x) / p.heads;
    // The last sequence whose chunks begin at this place or before it.
    std::int64_t sequence = 0;
    for (std::int64_t end = p.batch; end - sequence > 1;) {
      const std::int64_t middle = (sequence + end) / 2;
      (chunk_place(p.offsets, middle) <= place ? sequence : end) = middle;
    }
    first = p.offsets[sequence] + (place - chunk_place(p.offsets, sequence)) * chunk;
    const std::int64_t left = p.offsets[sequence + 1] - first;
    tokens = static_cast<int>(left < 0 ? 0 : left < chunk ? left : chunk);
  }

  __device__ __forceinline__ Tile<key_width> q() const { return {memory}; }
  __device__ __forceinline__ Tile<key_width> u() const { return {memory + token_tile}; }
  __device__ __forceinline__ Tile<chunk> by_channel(int i) const {
    return {memory + 2 * token_tile + square_tile + i * channel_tile};
  }
  __device__ __forceinline__ Tile<chunk> scores() const { return {memory + 2 * token_tile}; }
  __device__ __forceinline__ Tile<chunk> key() const { return by_channel(0); }
  __device__ __forceinline__ Tile<chunk> write() const { return by_channel(1); }
  // Levels from the last on: the first five lie in the room.
  __device__ __forceinline__ Tile<chunk> level(int n) const { return by_channel(7 - n); }
  __device__ __forceinline__ Bf16* room() const { return by_channel(3).data; }
  __device__ __forceinline__ Tile<slice> v() const { return {room()}; }
  __device__ __forceinline__ Tile<slice> dmixed() const { return {room() + value_tile}; }
  __device__ __forceinline__ Tile<slice> state() const { return {room() + 2 * value_tile}; }
  __device__ __forceinline__ Tile<slice> dstate() const {
    return {room() + 2 * value_tile + state_tile};
  }
  __device__ __forceinline__ Tile<chunk> dscores() const { return {room()}; }
  // The i-th four floats that a thread puts aside.
  __device__ __forceinline__ float4& aside(int i) const {
    return reinterpret_cast<float4*>(room() +
                                     square_tile)[i * threads + static_cast<int>(threadIdx.x)];
  }
  // [half, channel]: decay over the half; then daug.
  __device__ __forceinline__ float* decays() const { return numbers; }
  // [half, channel]: what passes on to the other half: read dread, write dwrite.
  __device__ __forceinline__ float* later_sums() const { return numbers + 2 * key_width; }
  __device__ __forceinline__ float* earlier_sums() const { return numbers + 4 * key_width; }
  __device__ __forceinline__ float* dscore() const { return numbers + 6 * key_width; }

  // ---- Where elements of a Part lie.
  __device__ __forceinline__ int token(int i, int r) const {
    return half * 32 + i * 8 + lane % 4 * 2 + r % 2;
  }
  __device__ __forceinline__ int channel(int r) const {
    return first_channel + lane / 4 + r / 2 * 8;
  }
  // Whether an element's token is in the upper half of its block at a level.
  template <int n>
  __device__ __forceinline__ bool upper(int i, int r) const {
    if constexpr (n == 0) return (r & 1) != 0;
    if constexpr (n == 1) return (lane & 1) != 0;
    if constexpr (n == 2) return (lane & 2) != 0;
    if constexpr (n == 3) return (i & 1) != 0;
    if constexpr (n == 4) return (i & 2) != 0;
    return half != 0;
  }

  template <int n>
  using Level = std::integral_constant<int, n>;

  template <int width>
  __device__ __forceinline__ void fetch_rows(Tile<width> to, const Bf16* from, std::int64_t stride,
                                             int rows, int real) const {
    constexpr int packs = width / 8;
    for (int i = static_cast<int>(threadIdx.x); i < rows * packs; i += threads) {
      const int row = i / packs;
      const int at = i % packs * 8;
      const bool exists = row < real;
      metala::cuda::copy_async(to.at(row, at), from + (exists ? row : 0) * stride + at, exists);
    }
  }
  __device__ __forceinline__ Part part_of(Tile<key_width> tile) const {
    Part part;
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      part.take(f, tile.transposed_as_a(first_channel, half * 32 + f * 16));
    }
    return part;
  }
  // The lane's part of 16 tokens f of the queries and keys, as operands.
  __device__ __forceinline__ FragmentA query(int f) const {
    return q().transposed_as_a(first_channel, half * 32 + f * 16);
  }
  __device__ __forceinline__ FragmentA keys(int f) const {
    return key().as_a(first_channel, half * 32 + f * 16);
  }

  // A token beyond the end keeps everything and writes nothing.
  __device__ __forceinline__ Gate gate_of(float logit, int t) const {
    return t < tokens ? fast_gate(logit, p.inverse_temperature) : Gate{1.0f, 0.0f};
  }
  __device__ __forceinline__ Part decays_of_tokens() const {
    Part keep = part_of(u());
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int r = 0; r < 4; ++r) keep.at(i, r) = gate_of(keep.at(i, r), token(i, r)).keep;
    }
    return keep;
  }

  // Products of decays in the block of 2^n tokens that holds a token: from its start up to the
  // token, from the token's next to its end, and of all of the warp's tokens.
  struct Products {
    Part before, after;
    Pair whole;
  };

  // Halves the chunk from the smallest blocks on: visit(Level<n>, before, after) as blocks of 2^n
  // tokens are about to join in pairs, n = 0 .. 5.
  template <class Visit>
  __device__ __forceinline__ Products halve(const Part& keep, Visit visit) const {
    Products now = {keep, Part::filled(1), {}};
    visit(Level<0>(), now.before, now.after);
    Pair block[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        now.after.at(i, 2 * c) = keep.at(i, 2 * c + 1);
        block[i].at[c] = keep.at(i, 2 * c) * keep.at(i, 2 * c + 1);
        now.before.at(i, 2 * c + 1) = block[i].at[c];
      }
    }
    const auto join = [&](int i, int c, float sibling, bool is_upper) {
      const float lower = is_upper ? sibling : 1.0f;
      const float higher = is_upper ? 1.0f : sibling;
#pragma unroll
      for (int r = 2 * c; r < 2 * c + 2; ++r) {
        now.before.at(i, r) *= lower;
        now.after.at(i, r) *= higher;
      }
    };
    const auto join_lanes = [&](int distance) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const float sibling = exchanged(block[i].at[c], distance);
          join(i, c, sibling, (lane & distance) != 0);
          block[i].at[c] *= sibling;
        }
      }
    };
    visit(Level<1>(), now.before, now.after);
    join_lanes(1);
    visit(Level<2>(), now.before, now.after);
    join_lanes(2);
    const auto join_eights = [&](int distance) {
      Pair joined[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          join(i, c, block[i ^ distance].at[c], (i & distance) != 0);
          joined[i].at[c] = block[i].at[c] * block[i ^ distance].at[c];
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) block[i] = joined[i];
    };
    visit(Level<3>(), now.before, now.after);
    join_eights(1);
    visit(Level<4>(), now.before, now.after);
    join_eights(2);
    visit(Level<5>(), now.before, now.after);
    now.whole = block[0];
    return now;
  }

  // The two halves of the chunk join: `decays` holds what each keeps.
  __device__ __forceinline__ void join_halves(Products& now) const {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float sibling = decays()[(half ^ 1) * key_width + channel(2 * c)];
      const float lower = half != 0 ? sibling : 1.0f;
      const float higher = half != 0 ? 1.0f : sibling;
      now.whole.at[c] *= sibling;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int r = 2 * c; r < 2 * c + 2; ++r) {
          now.before.at(i, r) *= lower;
          now.after.at(i, r) *= higher;
        }
      }
    }
  }

  // 16 tokens f of a level's tile: queries with what is kept since the boundary, keys with what is
  // kept up to it.
  template <int n>
  __device__ __forceinline__ FragmentA level_of(int f, const FragmentA& query,
                                                const FragmentA& keys, const Part& before,
                                                const Part& after) const {
    FragmentA z;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int i = 2 * f + j / 2;
      const int r = j % 2 * 2;
      const float2 q = unpacked(query.r[j]);
      const float2 k = unpacked(keys.r[j]);
      z.r[j] = packed(upper<n>(i, r) ? q.x * before.at(i, r) : k.x * after.at(i, r),
                      upper<n>(i, r + 1) ? q.y * before.at(i, r + 1) : k.y * after.at(i, r + 1));
    }
    return z;
  }

  // ---- First: level tiles, keys, what is written to the state.
  __device__ __forceinline__ void put(Tile<chunk> tile, int f, const FragmentA& part) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      *reinterpret_cast<std::uint32_t*>(tile.at(channel(j % 2 * 2), token(2 * f + j / 2, 0))) =
          part.r[j];
    }
  }

  __device__ __forceinline__ void prepare() const {
    Part keep = part_of(u());
    FragmentA k[2];
    FragmentA queries[2];
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      Part lose;
#pragma unroll
      for (int i = 2 * f; i < 2 * f + 2; ++i) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const Gate g = gate_of(keep.at(i, r), token(i, r));
          keep.at(i, r) = g.keep;
          lose.at(i, r) = g.lose;
        }
      }
      k[f] = lose.rounded(f);
      put(key(), f, k[f]);
      queries[f] = query(f);
    }
    Products now = halve(keep, [&]<int n>(Level<n>, const Part& before, const Part& after) {
#pragma unroll
      for (int f = 0; f < 2; ++f) {
        put(level(n), f, level_of<n>(f, queries[f], k[f], before, after));
      }
    });
    if (lane % 4 == 0) {
      decays()[half * key_width + channel(0)] = now.whole.at[0];
      decays()[half * key_width + channel(2)] = now.whole.at[1];
    }
    __syncthreads();
    join_halves(now);
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      FragmentA written;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 both = unpacked(k[f].r[j]);
        const float* after = now.after.eight[2 * f + j / 2].at + j % 2 * 2;
        written.r[j] = packed(both.x * after[0], both.y * after[1]);
      }
      put(write(), f, written);
    }
  }

  // ---- Second: scores. Pairs of tokens t >= s lie in ten tiles of 16 x 16, numbered with those on
  // the diagonal last, and warps take them in turn.
  struct PairTile {
    int t, s;
  };
  static __device__ __forceinline__ PairTile pair_tile(int i) {
    return {static_cast<int>(0x3210333221ull >> (4 * i) & 15),
            static_cast<int>(0x3210210100ull >> (4 * i) & 15)};
  }
  // The row in a tile, or the column, of an element of two eights of columns of sums.
  __device__ __forceinline__ int sum_row(int r) const {
    return lane / 4 + r / 2 * 8;
  }
  __device__ __forceinline__ int sum_column(int n, int r) const {
    return n * 8 + lane % 4 * 2 + r % 2;
  }

  __device__ __forceinline__ void find_scores() const {
    for (int i = warp; i < 10; i += warps) {
      const PairTile tile = pair_tile(i);
      Sums sums[2] = {};
      if (tile.t != tile.s) {
        const Tile<chunk> rows = level(tile.t / 2 == tile.s / 2 ? 4 : 5);
        add_products(
            sums, tile, [&](int c) { return rows.transposed_as_a(tile.t * 16, c); }, rows);
      } else {
        // Pairs meet at the level of the highest bit in which they differ.
        const auto add = [&](auto rows, Tile<chunk> other, auto meet) {
          Sums level_sums[2] = {};
          add_products(level_sums, tile, rows, other);
#pragma unroll
          for (int n = 0; n < 2; ++n) {
#pragma unroll
            for (int r = 0; r < 4; ++r) {
              if (meet(sum_row(r), sum_column(n, r))) sums[n].at[r] += level_sums[n].at[r];
            }
          }
        };
#pragma unroll
        for (int l = 0; l < 4; ++l) {
          add([&, l](int c) { return level(l).transposed_as_a(tile.t * 16, c); }, level(l),
              [l](int t, int s) { return t > s && ((t ^ s) >> l) == 1; });
        }
        add([&](int c) { return q().as_a(tile.t * 16, c); }, key(),
            [](int t, int s) { return t == s; });
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int r = 0; r < 4; r += 2) {
          *reinterpret_cast<std::uint32_t*>(
              scores().at(tile.t * 16 + sum_row(r), tile.s * 16 + sum_column(n, r))) =
              packed(p.scale * sums[n].at[r], p.scale * sums[n].at[r + 1]);
        }
      }
    }
  }
  // sums += rows(channels from c on) times the columns of `other` at the tile's tokens s.
  template <class Rows>
  __device__ __forceinline__ void add_products(Sums* sums, PairTile tile, Rows rows,
                                               Tile<chunk> other) const {
#pragma unroll
    for (int c = 0; c < key_width; c += 16) {
      FragmentB b[2];
      other.as_b(c, tile.s * 16, b);
      const FragmentA a = rows(c);
      metala::cuda::multiply(sums[0], a, b[0]);
      metala::cuda::multiply(sums[1], a, b[1]);
    }
  }

  // ---- Third: everything with columns of the state, slice by slice.
  struct Columns {
    Part dread, dwrite;  // S dc, without the scale; dS v
    Pair meeting;        // S . dS, of the lane's columns
    Sums dscores[pair_tiles][2];
  };

  __device__ __forceinline__ void fetch_slice(int column) const {
    const int width = p.heads * value_width;
    const std::int64_t at = head * value_width + column;
    const std::int64_t state_at = (place * p.heads + head) * key_width * value_width + column;
    fetch_rows(v(), p.v + first * p.v_stride + at, p.v_stride, chunk, tokens);
    fetch_rows(dmixed(), p.dmixed + first * width + at, width, chunk, tokens);
    fetch_rows(state(), p.states + state_at, value_width, key_width, key_width);
    fetch_rows(dstate(), p.dstates + state_at, value_width, key_width, key_width);
    metala::cuda::commit_copies();
  }

  __device__ __forceinline__ void add_state_products(Columns& sums) const {
#pragma unroll
    for (int d = 0; d < slice; d += 16) {
      const FragmentA s = state().as_a(first_channel, d);
      const FragmentA ds = dstate().as_a(first_channel, d);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 a = unpacked(s.r[i]);
        const float2 b = unpacked(ds.r[i]);
        sums.meeting.at[i % 2] = fmaf(a.x, b.x, fmaf(a.y, b.y, sums.meeting.at[i % 2]));
      }
#pragma unroll
      for (int f = 0; f < 2; ++f) {
        FragmentB b[2];
        dmixed().rows_as_b(half * 32 + f * 16, d, b);
        metala::cuda::multiply(sums.dread.eight[2 * f], s, b[0]);
        metala::cuda::multiply(sums.dread.eight[2 * f + 1], s, b[1]);
        v().rows_as_b(half * 32 + f * 16, d, b);
        metala::cuda::multiply(sums.dwrite.eight[2 * f], ds, b[0]);
        metala::cuda::multiply(sums.dwrite.eight[2 * f + 1], ds, b[1]);
      }
    }
  }

  __device__ __forceinline__ void add_dscores(Columns& sums) const {
#pragma unroll
    for (int i = 0; i < pair_tiles; ++i) {
      if (warp + i * warps >= 10) continue;
      const PairTile tile = pair_tile(warp + i * warps);
#pragma unroll
      for (int d = 0; d < slice; d += 16) {
        FragmentB b[2];
        v().rows_as_b(tile.s * 16, d, b);
        const FragmentA a = dmixed().as_a(tile.t * 16, d);
        metala::cuda::multiply(sums.dscores[i][0], a, b[0]);
        metala::cuda::multiply(sums.dscores[i][1], a, b[1]);
      }
    }
  }

  // dv += scores^T dc + write dS, for the warp's tokens and columns of the slice.
  __device__ __forceinline__ void store_dv(int column) const {
    const int rows = warp % 4;
    const int from = warp / 4 * columns;
    Bf16* const to = p.dv + (first + rows * 16) * p.dv_stride + head * value_width + column + from;
    const auto pair = [&](int n, int r) {
      return reinterpret_cast<std::uint32_t*>(to + sum_row(r) * p.dv_stride + sum_column(n, 0));
    };
    const auto real = [&](int r) { return rows * 16 + sum_row(r) < tokens; };
    // What is there already is on its way while the products run.
    std::uint32_t past[columns / 8][2];
#pragma unroll
    for (int n = 0; n < columns / 8; ++n) {
#pragma unroll
      for (int r = 0; r < 4; r += 2) past[n][r / 2] = real(r) ? *pair(n, r) : 0;
    }
    Sums sums[columns / 8] = {};
    const auto add = [&](const FragmentA& a, Tile<slice> other, int k) {
#pragma unroll
      for (int n = 0; n < columns / 8; n += 2) {
        FragmentB b[2];
        other.as_b(k, from + n * 8, b);
        metala::cuda::multiply(sums[n], a, b[0]);
        metala::cuda::multiply(sums[n + 1], a, b[1]);
      }
    };
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      if (t >= rows) add(scores().transposed_as_a(rows * 16, t * 16), dmixed(), t * 16);
    }
#pragma unroll
    for (int c = 0; c < key_width; c += 16) {
      add(write().transposed_as_a(rows * 16, c), dstate(), c);
    }
#pragma unroll
    for (int n = 0; n < columns / 8; ++n) {
#pragma unroll
      for (int r = 0; r < 4; r += 2) {
        const float2 sum = unpacked(past[n][r / 2]);
        if (real(r)) *pair(n, r) = packed(sum.x + sums[n].at[r], sum.y + sums[n].at[r + 1]);
      }
    }
  }

  __device__ __forceinline__ void take_slices(Columns& sums) const {
    for (int column = 0; column < value_width; column += slice) {
      fetch_slice(column);
      metala::cuda::wait_for_copies<0>();
      __syncthreads();
      add_state_products(sums);
      add_dscores(sums);
      if (p.dv != nullptr) store_dv(column);
      __syncthreads();
    }
  }

  // The scores' gradients; tiles on the diagonal become symmetric.
  __device__ __forceinline__ void store_dscores(const Columns& sums) const {
#pragma unroll
    for (int i = 0; i < pair_tiles; ++i) {
      if (warp + i * warps >= 10) continue;
      const PairTile tile = pair_tile(warp + i * warps);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int r = 0; r < 4; r += 2) {
          const float* x = sums.dscores[i][n].at + r;
          const int t = tile.t * 16 + sum_row(r);
          const int s = tile.s * 16 + sum_column(n, r);
          if (tile.t != tile.s) {
            *reinterpret_cast<std::uint32_t*>(dscores().at(t, s)) =
                packed(p.scale * x[0], p.scale * x[1]);
            continue;
          }
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            if (t < s + j) continue;
            const Bf16 value = __float2bfloat16_rn(p.scale * x[j]);
            *dscores().at(t, s + j) = value;
            *dscores().at(s + j, t) = value;
          }
        }
      }
    }
  }

  // ---- Fourth: back through the levels.

  // What waits in shared memory while the levels need the registers.
  __device__ __forceinline__ void set_aside(const Columns& sums) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* x = sums.dread.eight[i].at;
      const float* y = sums.dwrite.eight[i].at;
      aside(i) = make_float4(x[0], x[1], x[2], x[3]);
      aside(4 + i) = make_float4(y[0], y[1], y[2], y[3]);
    }
  }
  __device__ __forceinline__ Sums from_aside(int i) const {
    const float4 x = aside(i);
    return {{x.x, x.y, x.z, x.w}};
  }

  // The gradient of 16 tokens f of a level's tile z (both sixteens of the warp), but for the factor
  // that it has: each upper token meets the lower ones of its pair of blocks, and they it.
  template <int n>
  __device__ __forceinline__ void level_gradient(int f, const FragmentA* z, Sums* g) const {
    FragmentB b[2];
    const auto add = [&](const FragmentA& a) {
      metala::cuda::multiply(g[0], a, b[0]);
      metala::cuda::multiply(g[1], a, b[1]);
    };
    g[0] = g[1] = {};
    if constexpr (n <= 3) {
      const int tile = half * 32 + f * 16;
      dscores().as_b(tile, tile, b);
      if constexpr (n == 3) {  // the other eight
        b[0].r[0] = 0;
        b[1].r[1] = 0;
      } else {
        // A lane holds tokens 2 (lane % 4) and the next of an eight, for the token lane / 4.
        const int apart = lane % 4 ^ lane / 8;
        const std::uint32_t partner = (lane / 4 & 1) != 0 ? 0x0000ffffu : 0xffff0000u;
        const bool meets = 2 * apart >> n == (n == 0 ? 0 : 1);
        const std::uint32_t mask = !meets ? 0 : n == 0 ? partner : 0xffffffffu;
        b[0] = {{b[0].r[0] & mask, 0}};
        b[1] = {{0, b[1].r[1] & mask}};
      }
      add(z[f]);
    } else if constexpr (n == 4) {
      const int lower = half * 32;
      if (f == 0) {
        dscores().as_b(lower + 16, lower, b);
      } else {
        dscores().rows_as_b(lower + 16, lower, b);
      }
      add(z[f ^ 1]);
    } else {
#pragma unroll
      for (int other = 0; other < 32; other += 16) {
        if (half == 0) {
          dscores().as_b(32 + other, f * 16, b);
        } else {
          dscores().rows_as_b(32 + f * 16, other, b);
        }
        add(level(5).as_a(first_channel, (half ^ 1) * 32 + other));
      }
    }
  }

  // What passes through each token's decay, d log a: sums over tokens at or after it of what is
  // read there, and over tokens before it of what was written there.
  struct Passing {
    Part own;
    Pair eight[4];  // for all of an eight, still to be summed over the quad
  };

  // For two neighbouring tokens of an eight: sums over the eight's later tokens, or earlier ones.
  __device__ __forceinline__ float beyond(float x, bool later) const {
    const float one = exchanged(x, 1);
    const float two = exchanged(x + one, 2);
    return (((lane & 1) == 0) == later ? one : 0.0f) + (((lane & 2) == 0) == later ? two : 0.0f);
  }
  __device__ __forceinline__ void add_read(float* own, float x, float y) const {
    const float after = beyond(x + y, true);
    own[0] += x + y + after;
    own[1] += y + after;
  }
  __device__ __forceinline__ void add_written(float* own, float x, float y) const {
    const float before = beyond(x + y, false);
    own[0] += before;
    own[1] += x + before;
  }

  // Adds z g of one level (blocks of 2^n tokens) for eight i and channel c of the lane's two.
  template <int n>
  __device__ __forceinline__ void pass_on(Passing& to, int i, int c, float x, float y) const {
    float* own = to.own.eight[i].at + 2 * c;
    const bool reads = upper<n>(i, 0);
    if constexpr (n == 0) {
      own[1] += y;
    } else if constexpr (n == 1) {
      own[0] += reads ? x + y : 0.0f;
      own[1] += reads ? y : x;
    } else if constexpr (n == 2) {
      const float sibling = exchanged(x + y, 1);
      const float beside = ((lane & 1) == 0) == reads ? sibling : 0.0f;
      own[0] += reads ? x + y + beside : beside;
      own[1] += reads ? y + beside : x + beside;
    } else {
      if (reads) {
        add_read(own, x, y);
      } else {
        add_written(own, x, y);
      }
      constexpr int block = 1 << (n - 3);  // eights
#pragma unroll
      for (int j = i / block * block; j < i / block * block + block; ++j) {
        if (j < i) to.eight[j].at[c] += reads ? x + y : 0.0f;
        if (j > i) to.eight[j].at[c] += reads ? 0.0f : x + y;
      }
    }
  }

  // One level: what it adds to dq and dk, and to what passes through decays.
  template <int n>
  __device__ __forceinline__ void level_back(const Part& before, const Part& after, Part& dq,
                                             Part& dk, Passing& passing) const {
    FragmentA z[2];
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      z[f] = level_of<n>(f, query(f), keys(f), before, after);
    }
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      Sums g[2];
      level_gradient<n>(f, z, g);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int i = 2 * f + j;
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const float x = g[j].at[r];
          dq.at(i, r) = fmaf(upper<n>(i, r) ? before.at(i, r) : 0.0f, x, dq.at(i, r));
          dk.at(i, r) = fmaf(upper<n>(i, r) ? 0.0f : after.at(i, r), x, dk.at(i, r));
        }
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const float2 own = unpacked(z[f].r[2 * j + c]);
          pass_on<n>(passing, i, c, own.x * g[j].at[2 * c], own.y * g[j].at[2 * c + 1]);
        }
      }
    }
  }

  __device__ __forceinline__ void go_back(const Pair& meeting) const {
    Part dq = Part::filled(0);
    Part dk = Part::filled(0);
    Passing passing = {Part::filled(0), {}};
    Products now =
        halve(decays_of_tokens(), [&]<int n>(Level<n>, const Part& before, const Part& after) {
          level_back<n>(before, after, dq, dk, passing);
        });
    join_halves(now);
    add_state(now, meeting, dq, dk, passing);
    add_own_token(dq, dk);
    store(dq, dk, passing.own);
  }

  // What the chunk reads from the state before it and writes to the one after it. Finishes what
  // passes.
  __device__ __forceinline__ void add_state(const Products& now, const Pair& meeting, Part& dq,
                                            Part& dk, Passing& passing) const {
    Pair later = {};
    Pair earlier = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Sums dread = from_aside(i);
      const Sums dwrite = from_aside(4 + i);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float2 q = unpacked(query(i / 2).r[i % 2 * 2 + c]);
        const float2 k = unpacked(keys(i / 2).r[i % 2 * 2 + c]);
        float read[2], written[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int r = 2 * c + e;
          read[e] = now.before.at(i, r) * p.scale * dread.at[r];
          written[e] = now.after.at(i, r) * dwrite.at[r];
          dq.at(i, r) += read[e];
          dk.at(i, r) += written[e];
          read[e] *= e == 0 ? q.x : q.y;
          written[e] *= e == 0 ? k.x : k.y;
        }
        add_read(passing.own.eight[i].at + 2 * c, read[0], read[1]);
        add_written(passing.own.eight[i].at + 2 * c, written[0], written[1]);
        const float x = read[0] + read[1];
        const float y = written[0] + written[1];
        later.at[c] += x;
        earlier.at[c] += y;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (j < i) passing.eight[j].at[c] += x;
          if (j > i) passing.eight[j].at[c] += y;
        }
      }
    }
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      later.at[c] = quad_sum(later.at[c]);
      earlier.at[c] = quad_sum(earlier.at[c]);
      if (lane % 4 == 0) {
        later_sums()[half * key_width + channel(2 * c)] = later.at[c];
        earlier_sums()[half * key_width + channel(2 * c)] = earlier.at[c];
      }
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      // From the other half: all of its reads are later than the first half, and its writes
      // earlier than the second. Through all decays passes what the state before gives the one
      // after.
      const float* other =
          (half == 0 ? later_sums() : earlier_sums()) + (half ^ 1) * key_width + channel(2 * c);
      const float through = *other + now.whole.at[c] * quad_sum(meeting.at[c]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float all = through + quad_sum(passing.eight[i].at[c]);
        passing.own.at(i, 2 * c) += all;
        passing.own.at(i, 2 * c + 1) += all;
      }
    }
  }

  // A token's own key with its own query: the score's diagonal and the augmentation.
  __device__ __forceinline__ void add_own_token(Part& dq, Part& dk) const {
    Pair daug = {};
    const bool augmented = p.dscore != nullptr;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float2 q = unpacked(query(i / 2).r[i % 2 * 2 + c]);
        const float2 k = unpacked(keys(i / 2).r[i % 2 * 2 + c]);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int r = 2 * c + e;
          const int t = token(i, r);
          const float own_query = e == 0 ? q.x : q.y;
          const float own_key = e == 0 ? k.x : k.y;
          float pull = __bfloat162float(*dscores().at(t, t));
          if (augmented) {
            const float score = dscore()[t];
            pull = fmaf(score, p.aug[head * key_width + channel(r)], pull);
            daug.at[c] += score * own_query * own_key;
          }
          dq.at(i, r) = fmaf(pull, own_key, dq.at(i, r));
          dk.at(i, r) = fmaf(pull, own_query, dk.at(i, r));
        }
      }
    }
    if (!augmented) return;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      daug.at[c] = quad_sum(daug.at[c]);
      if (lane % 4 == 0) decays()[half * key_width + channel(2 * c)] = daug.at[c];
    }
  }

  // dq and du lie as tokens by channels in the warp's own part of the tiles of q and u, and are
  // added to the rows in memory from there.
  __device__ __forceinline__ void store(const Part& dq, const Part& dk, const Part& passing) const {
    const Part logits = part_of(u());
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const float keep = fast_gate(logits.at(i, r), p.inverse_temperature).keep;
        const float slope = fast_sigmoid(-logits.at(i, r)) * p.inverse_temperature;
        const float du = (passing.at(i, r) - keep * dk.at(i, r)) * slope;
        *q().at(token(i, r), channel(r)) = __float2bfloat16_rn(dq.at(i, r));
        *u().at(token(i, r), channel(r)) = __float2bfloat16_rn(du);
      }
    }
    __syncthreads();
    if (p.dq != nullptr) add_rows(q(), p.dq + first * p.dq_stride, p.dq_stride);
    if (p.du != nullptr) add_rows(u(), p.du + first * p.du_stride, p.du_stride);
    const int own = static_cast<int>(threadIdx.x);
    if (p.daug != nullptr && own < key_width) {
      p.daug[(place * p.heads + head) * key_width + own] =
          decays()[own] + decays()[key_width + own];
    }
  }

  __device__ __forceinline__ void add_rows(Tile<key_width> from, Bf16* to,
                                           std::int64_t stride) const {
    using Row = metala::cuda::Pack<Bf16>;
    constexpr int packs = key_width / Row::size;
    constexpr int each = chunk * packs / threads;
    const auto place_of = [&](int i, int& t, int& at) {
      const int pack = i * threads + static_cast<int>(threadIdx.x);
      t = pack / packs;
      at = pack % packs * Row::size;
      return reinterpret_cast<Row*>(to + t * stride + head * key_width + at);
    };
    Row sums[each];
    int t, at;
#pragma unroll
    for (int i = 0; i < each; ++i) {
      const Row* there = place_of(i, t, at);
      sums[i] = {};
      if (p.add && t < tokens) sums[i] = *there;
    }
#pragma unroll
    for (int i = 0; i < each; ++i) {
      Row* const there = place_of(i, t, at);
      const Row more = *reinterpret_cast<const Row*>(from.at(t, at));
#pragma unroll
      for (int j = 0; j < Row::size; ++j) {
        sums[i].at[j] =
            __float2bfloat16_rn(__bfloat162float(sums[i].at[j]) + __bfloat162float(more.at[j]));
      }
      if (t < tokens) *there = sums[i];
    }
  }

  __device__ __forceinline__ void run() const {
    if (tokens == 0) {
      const int own = static_cast<int>(threadIdx.x);
      if (p.daug != nullptr && own < key_width) {
        p.daug[(place * p.heads + head) * key_width + own] = 0;
      }
      return;
    }
    const std::int64_t at = head * key_width;
    fetch_rows(q(), p.q + first * p.q_stride + at, p.q_stride, chunk, tokens);
    fetch_rows(u(), p.u + first * p.u_stride + at, p.u_stride, chunk, tokens);
    metala::cuda::commit_copies();
    for (int t = static_cast<int>(threadIdx.x); t < chunk && p.dscore != nullptr; t += threads) {
      dscore()[t] = t < tokens ? p.dscore[(first + t) * p.heads + head] : 0.0f;
    }
    metala::cuda::wait_for_copies<0>();
    __syncthreads();
    prepare();
    find_scores();
    __syncthreads();
    Columns sums = {};
    take_slices(sums);
    store_dscores(sums);
    set_aside(sums);
    __syncthreads();
    go_back(sums.meeting);
  }
};

}  // namespace metala::metala_attention::cuda
