// One token of the recurrence with what is local to it: a block for each head of each sequence.
//
// A thread keeps four neighbouring columns of a few rows of the state; its loads need nothing of
// the step, so they are on their way before the projections have ended. Row sums meet in shared
// memory in a fixed order; the block then adds the augmentation, norms and gates the head.
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/early_launch.cuh"
#include "metala/ops/decode/decode_rows.cuh"
#include "metala/ops/metala_attention/metala_attention_arguments.cuh"

namespace metala::decode::cuda {
namespace {

using metala::cuda::Bf16;
using metala_attention::cuda::Arguments;
using metala_attention::cuda::fast_sigmoid;
using metala_attention::cuda::Gate;
using metala_attention::cuda::norm_epsilon;
using metala_attention::cuda::Passage;

constexpr int threads = 256;
constexpr int rows_at_once = 8;  // of a thread
constexpr int widest_head = 256;

// metala_attention::cuda::gate in few instructions, keep and lose each to a relative 1e-5.
__device__ __forceinline__ Gate gate_in_brief(float u, float inverse_temperature) {
  using metala_attention::cuda::exp2f_fast;
  constexpr float log2_e = 1.44269504f;
  const float e = exp2f_fast(-log2_e * fabsf(u));
  const float logarithm =  // of 1 + e; by its series where the sum would round e away
      e < 1.0f / 64 ? e * (1 - e * (0.5f - e * (1.0f / 3)))
                    : metala_attention::cuda::log2f_fast(1 + e) / log2_e;
  const float x = (logarithm - fminf(u, 0.0f)) * inverse_temperature;
  const float keep = exp2f_fast(-log2_e * x);
  // Where gates remember, 1 - keep would cancel.
  return {keep, x < 1.0f / 16 ? x * (1 - x * (0.5f - x * (1.0f / 6))) : 1 - keep};
}

struct Local {
  const std::int32_t* ids;  // null: no sequence stands still
  const float* z_bias;
  Bf16* o;
  std::int64_t o_stride;
  float* conv_inputs;  // null: no convolution
  const float* normed;
  int taps;
};

__device__ __forceinline__ float4 updated(float4 s, const Passage& across, float k, float4 v) {
  const auto one = [&](float from, float value) {
    return fmaf(across.stay, from, fmaf(across.change, from, k * value));
  };
  return make_float4(one(s.x, v.x), one(s.y, v.y), one(s.z, v.z), one(s.w, v.w));
}

__device__ __forceinline__ void add_read(float4& read, float q, float4 s) {
  read.x = fmaf(q, s.x, read.x);
  read.y = fmaf(q, s.y, read.y);
  read.z = fmaf(q, s.z, read.z);
  read.w = fmaf(q, s.w, read.w);
}

// The convolution's inputs of the head's share of channels move on by one.
__device__ __forceinline__ void shift_inputs(const Local& local, std::int64_t first, int count) {
  const int thread = static_cast<int>(threadIdx.x);
  const float* normed = local.normed + first;
  float* inputs = local.conv_inputs + first * local.taps;
#pragma unroll 1
  for (int i = thread; i < count; i += threads) {
    float* of_channel = inputs + i * local.taps;
    if (local.taps == 4) {  // the released models'
      auto* const four = reinterpret_cast<float4*>(of_channel);
      *four = make_float4(four->y, four->z, four->w, normed[i]);
      continue;
    }
#pragma unroll 1
    for (int j = 0; j + 1 < local.taps; ++j) of_channel[j] = of_channel[j + 1];
    of_channel[local.taps - 1] = normed[i];
  }
}

__global__ void __launch_bounds__(threads) step(Arguments<float> p, float* state, Local local) {
  __shared__ float sums[3][row_warps];
  __shared__ float q[widest_head], k[widest_head];
  __shared__ Passage across[widest_head];
  __shared__ float4 reads[threads];
  metala::cuda::let_next_start();
  const int head = static_cast<int>(blockIdx.x);
  const std::int64_t n = blockIdx.y;
  const int thread = static_cast<int>(threadIdx.x);
  const int fours = p.value_width / 4;
  const int parts = threads / fours;
  const int part = thread / fours;
  const int four = thread - part * fours;
  const int last = part < parts ? p.key_width : 0;  // some threads may have no part
  float4* const rows =
      reinterpret_cast<float4*>(state) + (n * p.heads + head) * p.key_width * fours + four;
  float4 held[rows_at_once];
  const auto hold = [&](int first) {
#pragma unroll
    for (int i = 0; i < rows_at_once; ++i) {
      const int row = first + i * parts;
      if (row < last) held[i] = rows[row * fours];
    }
  };
  hold(part);
  const bool mine = thread < p.value_width;
  const int column = head * p.value_width + thread;
  const float z_bias = mine ? local.z_bias[column] : 0.0f;
  const bool stands = local.ids != nullptr && local.ids[n] < 0;
  metala::cuda::await_previous();
  if (stands) return;

  // All that it waits for comes at once.
  const float* const v_row = p.v.row(n) + head * p.value_width;
  const float own_v = mine ? v_row[thread] : 0.0f;
  const float z = mine ? p.z.row(n)[column] + z_bias : 0.0f;
  const float4 v = reinterpret_cast<const float4*>(v_row)[four];
  if (local.conv_inputs != nullptr) {
    // As many channels as the head has values.
    shift_inputs(local, (n * p.heads + head) * p.value_width, p.value_width);
  }
  float score = 0;
  if (thread < p.key_width) {
    const int channel = head * p.key_width + thread;
    const Gate gate = p.decays() ? gate_in_brief(p.logit_at(n, channel), p.inverse_temperature)
                                 : Gate{1.0f, 0.0f};
    const float query = p.q.row(n)[channel];
    const float key = p.key_at(n, channel, gate);
    q[thread] = p.scale * query;
    k[thread] = key;
    across[thread] = metala_attention::cuda::passage(gate);
    if (p.aug != nullptr) score = query * key * p.aug[channel];
  }
  score = sum_of_block(score, sums[0]);  // its barrier shows q, k and across to all

  float4 read = make_float4(0, 0, 0, 0);
  if (last > 0) {
#pragma unroll 1
    for (int first = part; first < last; first += rows_at_once * parts) {
      if (first != part) hold(first);
#pragma unroll
      for (int i = 0; i < rows_at_once; ++i) {
        const int row = first + i * parts;
        if (row >= last) continue;
        held[i] = updated(held[i], across[row], k[row], v);
        add_read(read, q[row], held[i]);
        rows[row * fours] = held[i];
      }
    }
    reads[part * fours + four] = read;
  }
  __syncthreads();

  float c = 0;
  if (mine) {
    const float* of_parts = reinterpret_cast<const float*>(reads) + thread;
#pragma unroll 8
    for (int i = 0; i < parts; ++i) c += of_parts[i * p.value_width];
    if (p.aug != nullptr) c += fast_sigmoid(score * own_v);
  }
  const float share = 1 / static_cast<float>(p.value_width);
  const float mean = sum_of_block(c, sums[1]) * share;
  const float centred = mine ? c - mean : 0.0f;
  const float r = rsqrtf(sum_of_block(centred * centred, sums[2]) * share + norm_epsilon);
  if (mine) {
    local.o[n * local.o_stride + column] =
        metala::cuda::from_float<Bf16>(centred * r * z * fast_sigmoid(z));
  }
}

}  // namespace

void attention_step(const metala_attention::Options& options, const metala_attention::Inputs& in,
                    const Tensor& z_bias, const Conv& conv, const Tensor& normed,
                    const std::int32_t* ids, Tensor o) {
  const auto stream = metala::cuda::enter(
      "decode", {&in.q, &in.v, &in.z, &in.before, &z_bias, &conv.inputs, &normed, &o});
  const Arguments<float> p = metala_attention::cuda::arguments<float>(options, in, {});
  const Local local = {ids,
                       static_cast<const float*>(z_bias.raw()),
                       static_cast<Bf16*>(o.raw()),
                       o.stride(0),
                       static_cast<float*>(conv.inputs.raw()),
                       static_cast<const float*>(normed.raw()),
                       conv.taps.defined() ? static_cast<int>(conv.taps.size(1)) : 0};
  const dim3 blocks(static_cast<unsigned>(options.heads), static_cast<unsigned>(in.q.size(0)));
  metala::cuda::launch_early(step, blocks, threads, 0, stream, p,
                             static_cast<float*>(in.before.raw()), local);
}

}  // namespace metala::decode::cuda
