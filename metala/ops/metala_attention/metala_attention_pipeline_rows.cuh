// The preparers of the pipeline (metala_attention_pipeline.cuh): from queries and gates to what
// walkers multiply.
#pragma once

#include "metala/ops/metala_attention/metala_attention_pipeline.cuh"

namespace metala::metala_attention::cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

// A thread owns two channels and a block of 16 tokens, which it walks from the middle up and down.
template <bool backwards>
struct Preparer {
  static constexpr int key_width = Pipeline::key_width;
  static constexpr int pairs = key_width / 2;
  static constexpr int tokens = chunk / block_count;
  static_assert(pairs * block_count == Pipeline::preparing && tokens == 2 * run_tokens);
  static constexpr int barrier = 1;  // 0 is __syncthreads'

  const Problem& p;
  const Place<key_width, Pipeline::value_width>& place;
  const Pipeline memory;
  const int rank;
  const int own = static_cast<int>(threadIdx.x) - Pipeline::walking;
  const int channel = own % pairs * 2;
  const int block = own / pairs;

  // Of the thread's block, both channels of a token in a word.
  struct Inputs {
    std::uint32_t q[tokens], u[tokens];
  };

  // From `row`, that of the block's first token. What lies beyond the last real token keeps
  // everything, writes and reads nothing: `beyond` stands for it.
  __device__ __forceinline__ void load(std::uint32_t (&to)[tokens], const Bf16* row,
                                       std::int64_t stride, int real, std::uint32_t beyond) const {
    if (real >= tokens) {
#pragma unroll
      for (int t = 0; t < tokens; ++t) {
        to[t] = *reinterpret_cast<const std::uint32_t*>(row);
        row += stride;
      }
      return;
    }
#pragma unroll
    for (int t = 0; t < tokens; ++t) {
      to[t] = t < real ? *reinterpret_cast<const std::uint32_t*>(row) : beyond;
      row += stride;
    }
  }
  __device__ __forceinline__ void load(Inputs& in, std::int64_t first, int real) const {
    const std::int64_t token = place.first + first + block * tokens;
    const int column = place.head * key_width + channel;
    real -= block * tokens;
    load(in.u, p.u + token * p.u_stride + column, p.u_stride, real, packed(open_gate, open_gate));
    load(in.q, p.q + token * p.q_stride + column, p.q_stride, real, 0);
  }

  // Has the second-level cache fetch a chunk's inputs: a line for every thread.
  __device__ __forceinline__ void announce(std::int64_t first, int real) const {
    constexpr int lines = 2 * key_width / 128;  // of a row
    static_assert(2 * lines * chunk == Pipeline::preparing);
    const int row = own / lines % chunk;
    if (row >= real) return;
    const std::int64_t token = place.first + first + row;
    const int column = place.head * key_width + own % lines * 64;
    const Bf16* const at =
        own < lines * chunk ? p.u + token * p.u_stride : p.q + token * p.q_stride;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at + column));
  }

  // Half of the block, outwards from the middle: f(token, key, query), both decayed from or to
  // there. Returns the bits of the half.
  template <bool upper, class F>
  __device__ __forceinline__ float2 walk(const Inputs& in, F f) const {
    float2 kept = make_float2(1, 1);  // from the middle to the token
    float2 bits = make_float2(0, 0);
#pragma unroll
    for (int j = 0; j < run_tokens; ++j) {
      const int t = upper ? run_tokens + j : run_tokens - 1 - j;
      const float2 logit = unpacked(in.u[t]);
      const BitGate x = bit_gate(logit.x, p.inverse_temperature);
      const BitGate y = bit_gate(logit.y, p.inverse_temperature);
      const float2 keep = make_float2(x.keep, y.keep);
      if (upper) kept = product(kept, keep);  // a token's own decay lies after the middle
      const float2 inverse = upper || j > 0
                                 ? make_float2(reciprocal_fast(kept.x), reciprocal_fast(kept.y))
                                 : make_float2(1, 1);
      f(t, product(make_float2(x.lose, y.lose), upper ? inverse : kept),
        product(unpacked(in.q[t]), upper ? kept : inverse));
      if (!upper) kept = product(kept, keep);
      bits = sum(bits, make_float2(x.bits, y.bits));
    }
    return bits;
  }

  __device__ __forceinline__ float2* total(int run) const {
    return reinterpret_cast<float2*>(memory.totals() + run * key_width + channel);
  }

  // What the thread keeps of its block until all totals are there, decayed from or to the middle:
  // the rows that the state takes in, which are keys, or backwards queries; and queries as they
  // were rounded.
  struct Decayed {
    float2 write[tokens];
    std::uint32_t read[tokens];
  };

  __device__ __forceinline__ void decay(const Inputs& in, Decayed& to) const {
    const auto keep = [&](int t, float2 key, float2 query) {
      to.write[t] = backwards ? query : key;
      if constexpr (!backwards) {
        to.read[t] = packed(query.x, query.y);
        put(memory.keys().at(block * tokens + t, channel), key);
        put_packed(memory.queries().at(block * tokens + t, channel), to.read[t]);
      }
    };
    *total(2 * block) = walk<false>(in, keep);
    *total(2 * block + 1) = walk<true>(in, keep);
  }

  static __device__ __forceinline__ void put_packed(Bf16* at, std::uint32_t both) {
    *reinterpret_cast<std::uint32_t*>(at) = both;
  }

  // When all totals are there: to where walkers will find it.
  __device__ __forceinline__ void finish(const Decayed& own, const Pipeline::Rows& to) const {
    float2 middle[block_count];  // bits from the chunk's start
    float2 here = make_float2(0, 0);
    float2 end = make_float2(0, 0);
#pragma unroll
    for (int r = 0; r < run_count; ++r) {
      end = sum(end, *total(r));
      if (r % 2 == 0) middle[r / 2] = end;
      if (r == 2 * block) here = end;
    }
    const float2 from_start = times(p.scale, power(times(-1, here)));
    const float2 to_end = power(difference(here, end));
    if (block == 0) *reinterpret_cast<float2*>(to.decay + channel) = power(times(-1, end));
    const int part = channel / Pipeline::part;
    Bf16* const write = to.write(part).data + block * tokens * Pipeline::part;
    Bf16* const read = to.read(part).data + block * tokens * Pipeline::part;
    // Of the block's token t, as Tile::at: blocks begin at multiples of eight rows.
    const auto offset = [&](int t) {
      return t * Pipeline::part + (channel % Pipeline::part ^ t % 8 * 8);
    };
#pragma unroll
    for (int t = 0; t < tokens; ++t) {
      put(write + offset(t), product(own.write[t], backwards ? from_start : to_end));
    }
    if constexpr (backwards) return;
    const std::uint32_t rounded = packed(from_start.x, from_start.y);
#pragma unroll
    for (int t = 0; t < tokens; ++t) {
      const __nv_bfloat162 both = __hmul2(reinterpret_cast<const __nv_bfloat162&>(own.read[t]),
                                          reinterpret_cast<const __nv_bfloat162&>(rounded));
      *reinterpret_cast<__nv_bfloat162*>(read + offset(t)) = both;
    }
#pragma unroll
    for (int j = 0; j + 1 < block_count; ++j) {
      if (j >= block) continue;
      put(memory.factors() + ChunkRows<key_width>::factor_row(block, 1 + j) * key_width + channel,
          power(difference(middle[j], here)));
    }
  }

  __device__ __forceinline__ void find_scores(Tile<chunk, true> to) const {
    const int warp = afresh(own / 32);
    const int group = warp / 4;
    // A quarter of the multiprocessor, every fourth warp, has two or three blocks of scores.
    const int row = group == 0 ? warp : 7 - warp;
    Queries<key_width> queries;
    queries.load(memory.queries(), row * 16);
    queries.find_scores(memory.keys(), to, memory.factors(), p.scale, row, group, 2,
                        [](int, int, float score) { return score; });
  }

  // Every second chunk of the walk, from the one of the block's rank on.
  __device__ __forceinline__ void run() const {
    const auto wait = [] { synchronize<Pipeline::preparing, barrier>(); };
    Pipeline::Barriers& barriers = memory.barriers();
    const Chunks chunks(place.tokens, backwards);
    if constexpr (!backwards) {
      // Blocks of scores that are no pairs.
      for (int j = 0; j < Pipeline::own_rows; ++j) {
        Bf16* const scores = memory.rows(rank + j * Pipeline::blocks, rank).scores().data;
        for (int at = own * 8; at < Pipeline::part_tile; at += Pipeline::preparing * 8) {
          *reinterpret_cast<uint4*>(scores + at) = make_uint4(0, 0, 0, 0);
        }
      }
    }
    Inputs in;
    if (rank < chunks.count) load(in, chunks.first(rank), chunks.real(rank));
#pragma unroll 1
    for (int i = rank; i < chunks.count; i += Pipeline::blocks) {
      const int next = i + Pipeline::blocks;
      if (next < chunks.count) announce(chunks.first(next), chunks.real(next));
      Decayed own_rows;
      decay(in, own_rows);
      wait();
      const int round = Pipeline::own_round(i);
      const Pipeline::Rows to = memory.rows(afresh(i), rank);
      if (round > 0) barriers.used[Pipeline::own_place(i)].await_cluster((round - 1) % 2);
      finish(own_rows, to);
      if constexpr (backwards) metala::cuda::show_to_products();
      wait();
      if (next < chunks.count) load(in, chunks.first(next), chunks.real(next));
      if constexpr (!backwards) {
        find_scores(to.scores());
        metala::cuda::show_to_products();
        wait();
      }
      if (own == 0) barriers.prepared[Pipeline::own_place(i)].arrive();
    }
  }
};

#endif

}  // namespace metala::metala_attention::cuda
