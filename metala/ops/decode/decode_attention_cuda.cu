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

// What a block shares of one head of one token.
struct HeadMemory {
  float sums[3][row_warps];
  float q[widest_head], k[widest_head];
  Passage across[widest_head];
  float4 reads[threads];
};

// The thread's part of a state: four neighbouring columns of the rows part, part + parts, ...
struct Part {
  int fours, parts, part, four;
  int last;  // rows; 0 for a thread without a part

  __device__ __forceinline__ Part(int key_width, int value_width) {
    const int thread = static_cast<int>(threadIdx.x);
    fours = value_width / 4;
    parts = threads / fours;
    part = thread / fours;
    four = thread - part * fours;
    last = part < parts ? key_width : 0;
  }
};

// What a thread reads of one head of one token that needs nothing of the step.
struct Ahead {
  float z_bias;        // of its column
  float aug;           // of its key
  float logit;         // of its key, where that is fixed
  float4 past_inputs;  // of its channel of the convolution, with four taps
};

// And what the step's kernels before have made, past the first-level cache (decode_rows.cuh).
struct Token {
  float query, logit, key;  // of the thread's key
  float value, z;           // of its column
  float4 v;                 // of its part's columns
  float input;              // of its channel of the convolution
};

// Where the thread's column of the head is in a row of all heads'.
__device__ __forceinline__ int column_of(const Arguments<float>& p, int head) {
  return head * p.value_width + static_cast<int>(threadIdx.x);
}

__device__ __forceinline__ float* inputs_of(const Arguments<float>& p, const Local& local,
                                            std::int64_t n, int head) {
  return local.conv_inputs + (n * p.heads * p.value_width + column_of(p, head)) * local.taps;
}

__device__ __forceinline__ Ahead read_ahead(const Arguments<float>& p, const Local& local,
                                            std::int64_t n, int head) {
  const int thread = static_cast<int>(threadIdx.x);
  Ahead a = {};
  if (thread < p.value_width) {
    a.z_bias = local.z_bias[column_of(p, head)];
    if (local.conv_inputs != nullptr && local.taps == 4) {  // the released models'
      a.past_inputs = *reinterpret_cast<const float4*>(inputs_of(p, local, n, head));
    }
  }
  if (thread < p.key_width) {
    const int channel = head * p.key_width + thread;
    if (p.aug != nullptr) a.aug = p.aug[channel];
    if (p.fixed_decay != nullptr) a.logit = p.fixed_decay[channel];
  }
  return a;
}

__device__ __forceinline__ Token read_token(const Arguments<float>& p, const Local& local,
                                            std::int64_t n, int head, const Part& part) {
  const int thread = static_cast<int>(threadIdx.x);
  Token t = {};
  if (thread < p.key_width) {
    const int channel = head * p.key_width + thread;
    t.query = __ldcg(p.q.row(n) + channel);
    if (p.u.data != nullptr) t.logit = __ldcg(p.u.row(n) + channel);
    if (p.k.data != nullptr) t.key = __ldcg(p.k.row(n) + channel);
  }
  if (thread < p.value_width) {
    const int column = column_of(p, head);
    t.value = __ldcg(p.v.row(n) + column);
    t.z = __ldcg(p.z.row(n) + column);
    if (local.conv_inputs != nullptr) {
      t.input = __ldcg(local.normed + n * p.heads * p.value_width + column);
    }
  }
  t.v = load_four(p.v.row(n) + head * p.value_width + 4 * part.four);
  return t;
}

// The convolution's inputs of the thread's channel move on by one.
__device__ __forceinline__ void shift_inputs(const Arguments<float>& p, const Local& local,
                                             std::int64_t n, int head, const Ahead& ahead,
                                             float input) {
  if (local.conv_inputs == nullptr || static_cast<int>(threadIdx.x) >= p.value_width) return;
  float* const inputs = inputs_of(p, local, n, head);
  if (local.taps == 4) {
    const float4 past = ahead.past_inputs;
    *reinterpret_cast<float4*>(inputs) = make_float4(past.y, past.z, past.w, input);
    return;
  }
#pragma unroll 1
  for (int j = 0; j + 1 < local.taps; ++j) inputs[j] = inputs[j + 1];
  inputs[local.taps - 1] = input;
}

// Shows q, k and how the state crosses the token to the block; the augmentation's score.
__device__ __forceinline__ float prepare(const Arguments<float>& p, const Ahead& ahead,
                                         const Token& t, HeadMemory& m) {
  const int thread = static_cast<int>(threadIdx.x);
  float score = 0;
  if (thread < p.key_width) {
    const float logit = p.u.data != nullptr ? t.logit : ahead.logit;
    const Gate gate = p.decays() ? gate_in_brief(logit, p.inverse_temperature) : Gate{1.0f, 0.0f};
    const float key = p.k.data != nullptr ? t.key : gate.lose;
    m.q[thread] = p.scale * t.query;
    m.k[thread] = key;
    m.across[thread] = metala_attention::cuda::passage(gate);
    score = t.query * key * ahead.aug;
  }
  return sum_of_block(score, m.sums[0]);
}

// A row's four columns cross the token, and what the query reads of them is added.
__device__ __forceinline__ float4 crossed(float4 s, int row, const HeadMemory& m, float4 v,
                                          float4& read) {
  s = updated(s, m.across[row], m.k[row], v);
  add_read(read, m.q[row], s);
  return s;
}

// Augmentation, head norm and output gate of the thread's column of what was read, once all threads
// have left their parts of that in m.reads, and a barrier.
__device__ __forceinline__ float finished(const Arguments<float>& p, const Token& t, float z,
                                          int parts, float score, HeadMemory& m) {
  const int thread = static_cast<int>(threadIdx.x);
  const bool mine = thread < p.value_width;
  float c = 0;
  if (mine) {
    const float* of_parts = reinterpret_cast<const float*>(m.reads) + thread;
#pragma unroll 8
    for (int i = 0; i < parts; ++i) c += of_parts[i * p.value_width];
    if (p.aug != nullptr) c += fast_sigmoid(score * t.value);
  }
  const float share = 1 / static_cast<float>(p.value_width);
  const float mean = sum_of_block(c, m.sums[1]) * share;
  const float centred = mine ? c - mean : 0.0f;
  const float r = rsqrtf(sum_of_block(centred * centred, m.sums[2]) * share + norm_epsilon);
  return centred * r * z * fast_sigmoid(z);
}

__global__ void __launch_bounds__(threads) step(Arguments<float> p, float* state, Local local) {
  __shared__ HeadMemory memory;
  metala::cuda::let_next_start();
  const int head = static_cast<int>(blockIdx.x);
  const std::int64_t n = blockIdx.y;
  const Part part(p.key_width, p.value_width);
  float4* const rows = reinterpret_cast<float4*>(state) +
                       (n * p.heads + head) * p.key_width * part.fours + part.four;
  float4 held[rows_at_once];
  const auto hold = [&](int first) {
#pragma unroll
    for (int i = 0; i < rows_at_once; ++i) {
      const int row = first + i * part.parts;
      if (row < part.last) held[i] = rows[row * part.fours];
    }
  };
  hold(part.part);
  const Ahead ahead = read_ahead(p, local, n, head);
  const bool stands = local.ids != nullptr && local.ids[n] < 0;
  metala::cuda::await_previous();
  if (stands) return;

  const Token t = read_token(p, local, n, head, part);  // all that it waits for comes at once
  const float score = prepare(p, ahead, t, memory);
  float4 read = make_float4(0, 0, 0, 0);
  if (part.last > 0) {
#pragma unroll 1
    for (int first = part.part; first < part.last; first += rows_at_once * part.parts) {
      if (first != part.part) hold(first);
#pragma unroll
      for (int i = 0; i < rows_at_once; ++i) {
        const int row = first + i * part.parts;
        if (row >= part.last) continue;
        rows[row * part.fours] = crossed(held[i], row, memory, t.v, read);
      }
    }
    memory.reads[part.part * part.fours + part.four] = read;
  }
  __syncthreads();
  const float o = finished(p, t, t.z + ahead.z_bias, part.parts, score, memory);
  if (static_cast<int>(threadIdx.x) < p.value_width) {
    local.o[n * local.o_stride + column_of(p, head)] = metala::cuda::from_float<Bf16>(o);
  }
  shift_inputs(p, local, n, head, ahead, t.input);
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
