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
  float* daug;  // [chunk (chunk_place), H * K]: this chunk's share, written
  const std::int64_t* offsets;
  int heads, batch;
  float inverse_temperature, scale;
};

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
      const float2 both = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(from.r[i]));
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
  static_assert(2 * (value_tile + state_tile) <= 5 * channel_tile);
  static_assert(square_tile <= 5 * channel_tile);
  static constexpr int elements = 2 * token_tile + 8 * channel_tile + square_tile;
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
    return {memory + 2 * token_tile + i * channel_tile};
  }
  __device__ __forceinline__ Tile<chunk> key() const { return by_channel(0); }
  __device__ __forceinline__ Tile<chunk> write() const { return by_channel(1); }
  // Levels from the last on: the first five make room for slices, and those for dscores.
  __device__ __forceinline__ Tile<chunk> level(int n) const { return by_channel(7 - n); }
  __device__ __forceinline__ Bf16* room() const { return by_channel(3).data; }
  __device__ __forceinline__ Tile<slice> v() const { return {room()}; }
  __device__ __forceinline__ Tile<slice> dmixed() const { return {room() + value_tile}; }
  __device__ __forceinline__ Tile<slice> state() const { return {room() + 2 * value_tile}; }
  __device__ __forceinline__ Tile<slice> dstate() const {
    return {room() + 2 * value_tile + state_tile};
  }
  __device__ __forceinline__ Tile<chunk> dscores() const { return {room()}; }
  __device__ __forceinline__ Tile<chunk> scores() const {
    return {memory + 2 * token_tile + 8 * channel_tile};
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
  __device__ __forceinline__ void put(Tile<chunk> tile, const Part& part) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int r = 0; r < 4; r += 2) {
        *reinterpret_cast<std::uint32_t*>(tile.at(channel(r), token(i, 0))) =
            packed(part.at(i, r), part.at(i, r + 1));
      }
    }
  }

  // Decays and keys; a token beyond the end keeps everything and writes nothing.
  struct Gates {
    Part keep, key;
  };
  __device__ __forceinline__ Gates gates() const {
    Gates gates;
    const Part logits = part_of(u());
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const Gate g = fast_gate(logits.at(i, r), p.inverse_temperature);
        const bool real = token(i, r) < tokens;
        gates.keep.at(i, r) = real ? g.keep : 1.0f;
        gates.key.at(i, r) = real ? g.lose : 0.0f;
      }
    }
    return gates;
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

  // A level's tile: queries with what is kept since the boundary, keys with what is kept up to it.
  template <int n>
  __device__ __forceinline__ Part level_of(const Part& query, const Part& k, const Part& before,
                                           const Part& after) const {
    Part z;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        z.at(i, r) =
            upper<n>(i, r) ? query.at(i, r) * before.at(i, r) : k.at(i, r) * after.at(i, r);
      }
    }
    return z;
  }

  // ---- First: level tiles, keys, what is written to the state.
  __device__ __forceinline__ void prepare() const {
    Products now;
    Part k;
    {
      const Part query = part_of(q());
      const Gates g = gates();
      k = g.key;
      put(key(), k);
      now = halve(g.keep, [&]<int n>(Level<n>, const Part& before, const Part& after) {
        put(level(n), level_of<n>(query, k, before, after));
      });
    }
    if (lane % 4 == 0) {
      decays()[half * key_width + channel(0)] = now.whole.at[0];
      decays()[half * key_width + channel(2)] = now.whole.at[1];
    }
    __syncthreads();
    join_halves(now);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int r = 0; r < 4; ++r) k.at(i, r) *= now.after.at(i, r);
    }
    put(write(), k);
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
        const float2 a = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(s.r[i]));
        const float2 b = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(ds.r[i]));
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
    for (int r = 0; r < 4; r += 2) {
      const int t = rows * 16 + sum_row(r);
      if (t >= tokens) continue;
      Bf16* to = p.dv + (first + t) * p.dv_stride + head * value_width + column + from;
#pragma unroll
      for (int n = 0; n < columns / 8; ++n) {
        auto& there = *reinterpret_cast<__nv_bfloat162*>(to + sum_column(n, 0));
        const float2 past = __bfloat1622float2(there);
        there = __floats2bfloat162_rn(past.x + sums[n].at[r], past.y + sums[n].at[r + 1]);
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

  // The gradient of a level's tile z but for the factor that it has: each upper token meets the
  // lower ones of its pair of blocks, and they it.
  template <int n>
  __device__ __forceinline__ Part level_gradient(const Part& z) const {
    Part g = Part::filled(0);
    const auto add = [&](int f, const FragmentA& a, const FragmentB* b) {
      metala::cuda::multiply(g.eight[2 * f], a, b[0]);
      metala::cuda::multiply(g.eight[2 * f + 1], a, b[1]);
    };
    FragmentB b[2];
    if constexpr (n <= 3) {
#pragma unroll
      for (int f = 0; f < 2; ++f) {
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
        add(f, z.rounded(f), b);
      }
    } else if constexpr (n == 4) {
      const int lower = half * 32;
      dscores().as_b(lower + 16, lower, b);
      add(0, z.rounded(1), b);
      dscores().rows_as_b(lower + 16, lower, b);
      add(1, z.rounded(0), b);
    } else {
#pragma unroll
      for (int other = 0; other < 32; other += 16) {
        const FragmentA a = level(5).as_a(first_channel, (half ^ 1) * 32 + other);
#pragma unroll
        for (int f = 0; f < 2; ++f) {
          if (half == 0) {
            dscores().as_b(32 + other, f * 16, b);
          } else {
            dscores().rows_as_b(32 + f * 16, other, b);
          }
          add(f, a, b);
        }
      }
    }
    return g;
  }

  // What passes through each token's decay, d log a: sums over tokens at or after it of `later`,
  // which is read there, and over tokens before it of `earlier`, which was written there.
  struct Passing {
    Part own;             // finished
    Part later, earlier;  // still to be summed within eights
    Pair eight[4];        // for all of an eight, still to be summed over the quad
  };

  // Adds z g of one level (blocks of 2^n tokens).
  template <int n>
  __device__ __forceinline__ void pass_on(Passing& to, const Part& zg) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int r = 0; r < 4; r += 2) {
        const float x = zg.at(i, r);
        const float y = zg.at(i, r + 1);
        if constexpr (n == 0) {
          to.own.at(i, r + 1) += y;
        } else if constexpr (n == 1) {
          to.own.at(i, r) += upper<n>(i, r) ? x + y : 0.0f;
          to.own.at(i, r + 1) += upper<n>(i, r) ? y : x;
        } else if constexpr (n == 2) {
          const float sibling = exchanged(x + y, 1);
          const bool second = (lane & 1) != 0;
          if (upper<n>(i, r)) {
            to.own.at(i, r) += x + y + (second ? 0.0f : sibling);
            to.own.at(i, r + 1) += y + (second ? 0.0f : sibling);
          } else {
            to.own.at(i, r) += second ? sibling : 0.0f;
            to.own.at(i, r + 1) += x + (second ? sibling : 0.0f);
          }
        } else {
          const bool read = upper<n>(i, r);
          to.later.at(i, r) += read ? x : 0.0f;
          to.later.at(i, r + 1) += read ? y : 0.0f;
          to.earlier.at(i, r) += read ? 0.0f : x;
          to.earlier.at(i, r + 1) += read ? 0.0f : y;
          constexpr int block = 1 << (n - 3);  // eights
#pragma unroll
          for (int j = i / block * block; j < i / block * block + block; ++j) {
            if (j < i) to.eight[j].at[r / 2] += read ? x + y : 0.0f;
            if (j > i) to.eight[j].at[r / 2] += read ? 0.0f : x + y;
          }
        }
      }
    }
  }

  // Finishes the sums: own becomes d log a.
  __device__ __forceinline__ void finish(Passing& to) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float all = quad_sum(to.eight[i].at[c]);
        float* own = to.own.eight[i].at + 2 * c;
        const float* later = to.later.eight[i].at + 2 * c;
        const float* earlier = to.earlier.eight[i].at + 2 * c;
        const auto beyond = [&](float x, bool low_bit, bool high_bit) {
          const float one = exchanged(x, 1);
          const float two = exchanged(x + one, 2);
          return (low_bit ? one : 0.0f) + (high_bit ? two : 0.0f);
        };
        const float after = beyond(later[0] + later[1], (lane & 1) == 0, (lane & 2) == 0);
        const float before = beyond(earlier[0] + earlier[1], (lane & 1) != 0, (lane & 2) != 0);
        own[0] += all + (later[0] + later[1] + after) + before;
        own[1] += all + (later[1] + after) + (earlier[0] + before);
      }
    }
  }

  __device__ __forceinline__ void go_back(const Columns& sums) const {
    Part dq = Part::filled(0);
    Part dk = Part::filled(0);
    Passing passing = {Part::filled(0), Part::filled(0), Part::filled(0), {}};
    const Part query = part_of(q());
    const Gates g = gates();
    Products now = halve(g.keep, [&]<int n>(Level<n>, const Part& before, const Part& after) {
      Part z = level_of<n>(query, g.key, before, after);
      const Part gradient = level_gradient<n>(z);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const float x = gradient.at(i, r);
          dq.at(i, r) = fmaf(upper<n>(i, r) ? before.at(i, r) : 0.0f, x, dq.at(i, r));
          dk.at(i, r) = fmaf(upper<n>(i, r) ? 0.0f : after.at(i, r), x, dk.at(i, r));
          z.at(i, r) *= x;
        }
      }
      pass_on<n>(passing, z);
    });
    join_halves(now);
    add_state(sums, now, query, g.key, dq, dk, passing);
    finish(passing);
    add_own_token(query, g.key, dq, dk);
    store(g.keep, dq, dk, passing.own);
  }

  // What the chunk reads from the state before it and writes to the one after it.
  __device__ __forceinline__ void add_state(const Columns& sums, const Products& now,
                                            const Part& query, const Part& k, Part& dq, Part& dk,
                                            Passing& passing) const {
    Pair later = {};
    Pair earlier = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const float read = now.before.at(i, r) * p.scale * sums.dread.at(i, r);
        const float written = now.after.at(i, r) * sums.dwrite.at(i, r);
        dq.at(i, r) += read;
        dk.at(i, r) += written;
        const float x = query.at(i, r) * read;
        const float y = k.at(i, r) * written;
        passing.later.at(i, r) += x;
        passing.earlier.at(i, r) += y;
        later.at[r / 2] += x;
        earlier.at[r / 2] += y;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (j < i) passing.eight[j].at[r / 2] += x;
          if (j > i) passing.eight[j].at[r / 2] += y;
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
      const float through = now.whole.at[c] * quad_sum(sums.meeting.at[c]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int r = 2 * c; r < 2 * c + 2; ++r) passing.own.at(i, r) += *other + through;
      }
    }
  }

  // A token's own key with its own query: the score's diagonal and the augmentation.
  __device__ __forceinline__ void add_own_token(const Part& query, const Part& k, Part& dq,
                                                Part& dk) const {
    Pair daug = {};
    const bool augmented = p.dscore != nullptr;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int t = token(i, r);
        float pull = __bfloat162float(*dscores().at(t, t));
        if (augmented) {
          const float score = dscore()[t];
          pull = fmaf(score, p.aug[head * key_width + channel(r)], pull);
          daug.at[r / 2] += score * query.at(i, r) * k.at(i, r);
        }
        dq.at(i, r) = fmaf(pull, k.at(i, r), dq.at(i, r));
        dk.at(i, r) = fmaf(pull, query.at(i, r), dk.at(i, r));
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
  __device__ __forceinline__ void store(const Part& keep, const Part& dq, const Part& dk,
                                        const Part& passing) const {
    const Part logits = part_of(u());
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const float slope = fast_sigmoid(-logits.at(i, r)) * p.inverse_temperature;
        const float du = (passing.at(i, r) - keep.at(i, r) * dk.at(i, r)) * slope;
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
    for (int i = static_cast<int>(threadIdx.x); i < tokens * packs; i += threads) {
      const int at = i % packs * Row::size;
      Row& there = *reinterpret_cast<Row*>(to + i / packs * stride + head * key_width + at);
      const Row more = *reinterpret_cast<const Row*>(from.at(i / packs, at));
      Row sum = there;
#pragma unroll
      for (int j = 0; j < Row::size; ++j) {
        sum.at[j] = __float2bfloat16_rn(__bfloat162float(sum.at[j]) + __bfloat162float(more.at[j]));
      }
      there = sum;
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
    __syncthreads();
    go_back(sums);
  }
};

}  // namespace metala::metala_attention::cuda
