// The gradient within a chunk (metala_attention_chunk_gradient.cuh).
// The fourth: from there to q and u, run by run again. What passes through a token's decay is what
// all that came before it has to pass on, less what was read on the way: the sum over earlier
// tokens of written minus read, and what the state brought in.
#pragma once

#include "metala/ops/metala_attention/metala_attention_chunk_gradient.cuh"

namespace metala::metala_attention::cuda {

template <int key_width, int value_width>
__device__ __forceinline__ float2 ChunkGradient<key_width, value_width>::balance(int t) const {
  const float2 read = product(load_pair(query().at(t, rows.channel)), sum_at(0, t));
  const float2 written = product(load_pair(key().at(t, rows.channel)), sum_at(1, t));
  return difference(read, written);
}

template <int key_width, int value_width>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::finish() const {
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
  const float2 aug =
      p.dscore != nullptr ? at_channels(p.aug + head * key_width, rows.channel) : make_float2(0, 0);
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

template <int key_width, int value_width>
__device__ __forceinline__ float ChunkGradient<key_width, value_width>::gate_gradient(
    float logit, const BitGate& gate, float passing, float dk) const {
  const float keep = 1 - gate.lose;
  // Where fewer bits were counted than the decay costs, what passed was too much.
  const float passed = passing * fminf(1, keep * exp2f(most_bits));
  return (passed - keep * dk) * gate.closed(logit) * p.inverse_temperature;
}

template <int key_width, int value_width>
__device__ __forceinline__ void ChunkGradient<key_width, value_width>::store_rows(
    Tile<key_width> from, Bf16* to, std::int64_t stride) const {
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

}  // namespace metala::metala_attention::cuda
