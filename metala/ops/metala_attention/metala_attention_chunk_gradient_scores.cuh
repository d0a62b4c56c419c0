// The gradient within a chunk (metala_attention_chunk_gradient.cuh).
// The first of what a block does with its chunk: keys, queries, factors, scores.
#pragma once

#include "metala/ops/metala_attention/metala_attention_chunk_gradient.cuh"

namespace metala::metala_attention::cuda {

template <int key_width, int value_width>
template <class Token>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::store_scores(
    float (&x)[run_tokens], float* to, Token token) const {
  const int j = metala::cuda::spread_sums(x, run_lanes / 2);
#pragma unroll
  for (int distance = run_lanes / run_tokens / 2; distance > 0; distance /= 2) {
    x[0] += __shfl_xor_sync(0xffffffffu, x[0], distance);
  }
  if (lane % (run_lanes / run_tokens) == 0) to[rows.channel / 64 * chunk + token(j)] = x[0];
}

template <int key_width, int value_width>
__device__ __forceinline__ float ChunkGradient<key_width, value_width>::first_past_score(
    float2 logit, float2 query) const {
  const int t = rows.own_run * run_tokens;
  if (t == 0 || t >= tokens) return 0;
  const float2 past = load_pair(u().at(t - 1, rows.channel));
  const auto term = [&](float own, float before, float q) {
    const float kept = exp2f_fast(-bit_gate(own, p.inverse_temperature).bits);
    return q * kept * bit_gate(before, p.inverse_temperature).lose;
  };
  return term(logit.x, past.x, query.x) + term(logit.y, past.y, query.y);
}

template <int key_width, int value_width>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::prepare() const {
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
  rows.decay(
      logits, queries, p.inverse_temperature, [&](int j, float2 decayed_key, float2 decayed_query) {
        own[j] = decayed_key;
        with_own[j] = dot(decayed_key, decayed_query);
        // The walk goes up from the middle, or down.
        if (j > 0) {
          with_past[j] = rows.upper ? dot(own[j - 1], decayed_query) : dot(decayed_key, past_query);
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
  of_block.find_scores(
      key(), scores(), rounded_factors(), p.scale, block, group, groups,
      [&](int t, int s, float) { return over_channels(t == s ? own_scores() : past_scores(), t); });
}

}  // namespace metala::metala_attention::cuda
