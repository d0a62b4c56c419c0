// How a chunk's gates become factors of its keys and queries: README.md, "On NVIDIA GPUs".
//
// Threads own two channels and a run of eight tokens, half a block of 16. A run is walked outwards
// from the middle of its block, and what decays cost between there and a token is summed in bits:
// counted negative after the middle, so that a query is multiplied by 2^bits and a key by 2^-bits.
#pragma once

#include "metala/device/cuda/mma.cuh"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/metala_attention/metala_attention_gates.cuh"

namespace metala::metala_attention::cuda {

using metala::cuda::Bf16;
using metala::cuda::FragmentA;
using metala::cuda::FragmentB;
using metala::cuda::packed;
using metala::cuda::Sums;
using metala::cuda::Tile;

constexpr int chunk = 64;                      // tokens
constexpr int run_tokens = 8;                  // of a chunk; two are a block
constexpr int run_count = chunk / run_tokens;  // an even one lies before the middle of its block
constexpr int block_count = chunk / 16;

__device__ __forceinline__ float2 product(float2 a, float2 b) {
  return make_float2(a.x * b.x, a.y * b.y);
}
__device__ __forceinline__ float2 sum(float2 a, float2 b) {
  return make_float2(a.x + b.x, a.y + b.y);
}
__device__ __forceinline__ float2 difference(float2 a, float2 b) {
  return make_float2(a.x - b.x, a.y - b.y);
}
__device__ __forceinline__ float2 times(float a, float2 b) {
  return make_float2(a * b.x, a * b.y);
}
// a b + c
__device__ __forceinline__ float2 fused(float2 a, float2 b, float2 c) {
  return make_float2(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y));
}
// 2^x
__device__ __forceinline__ float2 power(float2 x) {
  return make_float2(exp2f_fast(x.x), exp2f_fast(x.y));
}
__device__ __forceinline__ float2 unpacked(std::uint32_t both) {
  return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(both));
}
__device__ __forceinline__ float2 load_pair(const Bf16* at) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(at));
}
__device__ __forceinline__ void put(Bf16* at, float2 value) {
  *reinterpret_cast<std::uint32_t*>(at) = packed(value.x, value.y);
}

// Two numbers for each token of a run, in the order of the walk.
using Run = float2[run_tokens];

// A thread's part of a chunk of `key_width` channels.
template <int key_width>
struct ChunkRows {
  static constexpr int pairs = key_width / 2;
  static constexpr int threads = run_count * pairs;

  const int channel = static_cast<int>(threadIdx.x) % pairs * 2;
  const int own_run = static_cast<int>(threadIdx.x) / pairs;
  const bool upper = own_run % 2 != 0;  // after the middle of its block
  float* const totals;                  // [runs, K]: bits that a run's decays cost

  __device__ __forceinline__ int token(int j) const {
    return own_run * run_tokens + (upper ? j : run_tokens - 1 - j);
  }
  __device__ __forceinline__ void load(Tile<key_width> from, Run& to) const {
#pragma unroll
    for (int j = 0; j < run_tokens; ++j) to[j] = load_pair(from.at(token(j), channel));
  }

  // What lies beyond the last real token keeps everything and writes nothing.
  __device__ __forceinline__ void open_beyond(int real, Tile<key_width> gates) const {
    if (real == chunk) return;
#pragma unroll 1
    for (int j = 0; j < run_tokens; ++j) {
      if (token(j) >= real) put(gates.at(token(j), channel), make_float2(open_gate, open_gate));
    }
  }

  // Calls f(j, bits from the middle, gates of both channels) along the walk; returns the bits of
  // the whole run.
  template <class F>
  __device__ __forceinline__ float2 walk(const Run& logits, float inverse_temperature, F f) const {
    const float direction = upper ? -1.0f : 1.0f;
    const float included = upper ? -1.0f : 0.0f;  // a token's own decay lies after the middle
    float2 bits = make_float2(0, 0);
#pragma unroll
    for (int j = 0; j < run_tokens; ++j) {
      const BitGate x = bit_gate(logits[j].x, inverse_temperature);
      const BitGate y = bit_gate(logits[j].y, inverse_temperature);
      f(j, make_float2(fmaf(included, x.bits, bits.x), fmaf(included, y.bits, bits.y)), x, y);
      bits = make_float2(fmaf(direction, x.bits, bits.x), fmaf(direction, y.bits, bits.y));
    }
    return times(direction, bits);
  }

  // f(j, key, query): both decayed from or to the middle of the block. Leaves the run's total.
  template <class F>
  __device__ __forceinline__ void decay(const Run& logits, const Run& queries,
                                        float inverse_temperature, F f) const {
    const float2 total = walk(logits, inverse_temperature,
                              [&](int j, float2 bits, const BitGate& x, const BitGate& y) {
                                f(j, product(make_float2(x.lose, y.lose), power(times(-1, bits))),
                                  product(queries[j], power(bits)));
                              });
    *reinterpret_cast<float2*>(totals + own_run * key_width + channel) = total;
  }

  // Bits from the chunk's start to the middle of each block, to that of the thread's and to the
  // end; when all threads have left their totals.
  struct Bits {
    float2 middle[block_count], here, end;
  };
  __device__ __forceinline__ Bits bits() const {
    Bits b;
    b.here = b.end = make_float2(0, 0);
#pragma unroll
    for (int r = 0; r < run_count; ++r) {
      b.end = sum(b.end, *reinterpret_cast<const float2*>(totals + r * key_width + channel));
      if (r % 2 == 0) b.middle[r / 2] = b.end;
      if (r == own_run / 2 * 2) b.here = b.end;
    }
    return b;
  }

  // What is kept from an origin to the middle of block i: row i (i + 1) / 2 + origin of a table.
  // Origin 0 is the chunk's start, and what is read from there is scaled; origin 1 + j the middle
  // of block j < i. Each half of a block finds some of the block's: calls f(row, factor).
  static constexpr int factor_rows = block_count * (block_count + 1) / 2;
  static __device__ __forceinline__ int factor_row(int i, int origin) {
    return i * (i + 1) / 2 + origin;
  }
  template <class F>
  __device__ __forceinline__ void each_factor(const Bits& b, float scale, F f) const {
    const int i = own_run / 2;
    if (!upper) f(factor_row(i, 0), times(scale, power(times(-1, b.here))));
#pragma unroll
    for (int j = 0; j + 1 < block_count; ++j) {
      if (j < i && j % 2 != own_run % 2) {
        f(factor_row(i, 1 + j), power(difference(b.middle[j], b.here)));
      }
    }
  }
};

// ---- Tiles of 16 x 16 scores. A warp's lane holds of its sums: rows lane / 4 (elements 0, 1) and
// lane / 4 + 8 (2, 3), columns 2 (lane % 4) and the next, in two eights of columns.
__device__ __forceinline__ int sum_row(int r) {
  return static_cast<int>(threadIdx.x) % 32 / 4 + r / 2 * 8;
}
__device__ __forceinline__ int sum_column(int n, int r) {
  return n * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + r % 2;
}

// A warp's 16 rows of queries as operands.
template <int key_width>
struct Queries {
  static constexpr int steps = key_width / 16;
  FragmentA at[steps];

  __device__ __forceinline__ void load(Tile<key_width> from, int row) {
#pragma unroll
    for (int k = 0; k < steps; ++k) at[k] = from.as_a(row, k * 16);
  }
  // 16 channels of them, times a factor for each channel.
  __device__ __forceinline__ FragmentA scaled(const Bf16* factor, int k) const {
    const int own = k * 16 + static_cast<int>(threadIdx.x) % 4 * 2;
    const auto* low = reinterpret_cast<const __nv_bfloat162*>(factor + own);
    FragmentA product;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const __nv_bfloat162 both =
          __hmul2(reinterpret_cast<const __nv_bfloat162&>(at[k].r[r]), low[r / 2 * 4]);
      product.r[r] = reinterpret_cast<const std::uint32_t&>(both);
    }
    return product;
  }

  // sums += rows(k) times the 16 keys of a block, over all channels.
  template <class Rows>
  __device__ __forceinline__ void multiply_keys(Sums* sums, Tile<key_width> keys, int block,
                                                Rows rows) const {
#pragma unroll
    for (int k = 0; k < steps; k += 2) {
      const FragmentA first = rows(k);
      const FragmentA second = rows(k + 1);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        FragmentB key[2];
        keys.transposed_as_b(block * 16 + n * 8, k * 16, key);
        metala::cuda::multiply(sums[n], first, key[0]);
        metala::cuda::multiply(sums[n], second, key[1]);
      }
    }
  }

  // scores[t, s] = scale times the sum over channels of q_t k_s a_{s+1} .. a_t, for block i's
  // tokens with those of every `groups`-th block from block `group` on, no later than i. `factors`
  // is the table of each_factor; near(t, s, score) is taken for a token's own key and for the one
  // before it.
  template <bool swizzled, class Near>
  __device__ __forceinline__ void find_scores(Tile<key_width> keys, Tile<chunk, swizzled> scores,
                                              const Bf16* factors, float scale, int i, int group,
                                              int groups, Near near) const {
    const auto store = [&](int block, int n, int r, float x, float y) {
      put(scores.at(i * 16 + sum_row(r), block * 16 + sum_column(n, r)),
          make_float2(scale * x, scale * y));
    };
    for (int j = group; j < i; j += groups) {
      const Bf16* const factor = factors + ChunkRows<key_width>::factor_row(i, 1 + j) * key_width;
      Sums sums[2] = {};
      multiply_keys(sums, keys, j, [&](int k) { return scaled(factor, k); });
      float& corner = sums[1].at[1];
      if (j + 1 == i && sum_row(1) == 0 && sum_column(1, 1) == 15) {
        corner = near(i * 16, i * 16 - 1, corner);
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int r = 0; r < 4; r += 2) store(j, n, r, sums[n].at[r], sums[n].at[r + 1]);
      }
    }
    if (i % groups != group) return;
    Sums sums[2] = {};
    multiply_keys(sums, keys, i, [&](int k) { return at[k]; });
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        float& score = sums[n].at[r];
        const int row = sum_row(r);
        const int column = sum_column(n, r);
        if (column == row || column + 1 == row) score = near(i * 16 + row, i * 16 + column, score);
        if (column > row) score = 0;  // no pair, and whatever the factors came to
      }
#pragma unroll
      for (int r = 0; r < 4; r += 2) store(i, n, r, sums[n].at[r], sums[n].at[r + 1]);
    }
  }
};

}  // namespace metala::metala_attention::cuda
