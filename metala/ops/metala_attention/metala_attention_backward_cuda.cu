// The gradient: in chunks where those fit; else, for all sizes and options, in three kernels: what
// is local to a token (metala_attention_local_cuda.h) gives the gradient of the recurrence's
// outputs; the recurrence, token by token; what both give for q, k and the gates, added up.
//
// The recurrence's gradient needs the state before every token, from the last to the first. A block
// (64 columns of one head's state, four lanes to a column, as forwards) walks the sequence once and
// keeps the state at the start of each segment, then takes the segments from the last on: walks one
// forwards again and keeps all its states, and goes back over them. A thread reads only states that
// it wrote itself. Sums over the columns of several blocks meet in the last kernel, in order: the
// same inputs give the same bits.
#include <algorithm>

#include "metala/device/cuda/column_sums.h"
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/pieces.h"
#include "metala/ops/metala_attention/metala_attention_arguments.cuh"
#include "metala/ops/metala_attention/metala_attention_chunk_cuda.h"
#include "metala/ops/metala_attention/metala_attention_cuda.h"
#include "metala/ops/metala_attention/metala_attention_cut.cuh"
#include "metala/ops/metala_attention/metala_attention_local_cuda.h"
#include "metala/ops/metala_attention/metala_attention_padded_cuda.h"

namespace metala::metala_attention::cuda {
namespace {

using metala::cuda::from_float;
using metala::cuda::to_float;

constexpr int warps = threads / 32;

// What comes in, what lies in scratch memory between the kernels, and what is added to.
template <class T>
struct Backward {
  const float* dafter;
  T* dmixed;      // [N, H * D]
  float* dscore;  // [N, H]: of the augmentation's scores
  // By block of columns: [blocks, N, H * K] each. Gradients of q, k, and of the decay.
  float *dq, *dk, *da;
  float* checkpoints;  // [segments, H, blocks, rows of a lane, threads]
  float* history;      // [cut, B * H, blocks, tokens of a segment, rows of a lane, threads]
  Cut cut;             // of the walk, into several segments each
  float* dadded;       // as the cut's, on the way back: what a gradient of zero becomes
  float* dbefore;
  struct {
    Rows<T> q, u, k, v;
  } to;
  std::int64_t tokens;  // N
};

template <class T>
__device__ __forceinline__ void add_to(T& at, float value) {
  at = from_float<T>(to_float(at) + value);
}

// What the recurrence needs of 16 tokens, and room for sums over a block's columns.
template <int key_rows>
struct Tokens : StateTokens<key_rows> {
  float q[tokens_at_once][key_rows], dmixed[tokens_at_once][columns];
  // One token's are added up while the next one's come; where rows are many there is no room.
  static constexpr int buffers = key_rows <= 128 ? 2 : 1;
  float sums[buffers][3][warps][key_rows];
};

// Tokens of a segment: their states take a MiB for each block.
template <int rows_of_lane>
constexpr int segment_tokens = 4096 / (rows_of_lane * parts);

template <int rows_of_lane, class T>
struct Walk {
  static constexpr int key_rows = rows_of_lane * parts;
  static constexpr int segment = segment_tokens<rows_of_lane>;
  static constexpr int state_size = rows_of_lane * threads;

  const Arguments<T>& p;
  const Backward<T>& b;
  Tokens<key_rows>& tokens;
  const bool backwards;
  const int head = static_cast<int>(blockIdx.x) % p.heads;
  const std::int64_t sequence = static_cast<std::int64_t>(blockIdx.x) / p.heads;
  const int own_column = static_cast<int>(threadIdx.x) / parts;
  const int column = static_cast<int>(blockIdx.y) * columns + own_column;
  const int part = static_cast<int>(threadIdx.x) % parts;
  const bool real = column < p.value_width;
  const std::int64_t start = p.offsets[sequence];
  const std::int64_t length = p.offsets[sequence + 1] - start;
  const int cut = static_cast<int>(blockIdx.z);
  const std::int64_t own_begin = cut * b.cut.tokens;
  const std::int64_t own_end =
      own_begin + b.cut.tokens < length ? own_begin + b.cut.tokens : length;
  float state[rows_of_lane];

  __device__ std::int64_t token(std::int64_t i) const {
    return start + (backwards ? length - 1 - i : i);
  }
  // Where a sequence's first segment lies among all of them: each has room for a part of one.
  __device__ float* checkpoint(std::int64_t i) const {
    const std::int64_t place = start / segment + sequence + i;
    const std::int64_t block = (place * p.heads + head) * gridDim.y + blockIdx.y;
    return b.checkpoints + block * state_size + threadIdx.x;
  }
  __device__ float* history(std::int64_t i) const {
    const std::int64_t block =
        (static_cast<std::int64_t>(blockIdx.z) * gridDim.x + blockIdx.x) * gridDim.y + blockIdx.y;
    return b.history + (block * segment + i) * state_size + threadIdx.x;
  }

  __device__ void keep(float* to) const {
#pragma unroll
    for (int r = 0; r < rows_of_lane; ++r) to[r * threads] = state[r];
  }
  __device__ static void read(const float* from, float (&to)[rows_of_lane]) {
#pragma unroll
    for (int r = 0; r < rows_of_lane; ++r) to[r] = from[r * threads];
  }

  // Tokens first .. first + count of the walk into shared memory.
  __device__ void load(std::int64_t first, int count) {
    load_tokens(
        tokens, p, head, count, [&](int i) { return token(first + i); },
        [&](int at, int row, std::int64_t t, int channel, bool exists) {
          tokens.q[at][row] = exists ? p.scale * to_float(p.q.row(t)[channel]) : 0.0f;
        },
        [&](int at, int own, std::int64_t t, int element, bool exists) {
          const std::int64_t width = p.heads * p.value_width;
          tokens.dmixed[at][own] = exists ? to_float(b.dmixed[t * width + element]) : 0.0f;
        });
  }

  __device__ float after_token(int at, int r, float past) const {
    const int row = r * parts + part;
    const float change =
        fmaf(tokens.change[at][row], past, tokens.k[at][row] * tokens.v[at][own_column]);
    return fmaf(tokens.stay[at][row], past, change);
  }

  // Calls before(i) with the state before each token of [begin, end).
  template <class Before>
  __device__ void forward(std::int64_t begin, std::int64_t end, Before before) {
    for (std::int64_t first = begin; first < end; first += tokens_at_once) {
      const int count =
          static_cast<int>(end - first < tokens_at_once ? end - first : tokens_at_once);
      load(first, count);
      for (int at = 0; at < count; ++at) {
        before(first + at);
#pragma unroll
        for (int r = 0; r < rows_of_lane; ++r) state[r] = after_token(at, r, state[r]);
      }
    }
  }

  // One token on the way back, from the state before it: its gradients, and dstate from after it to
  // before it.
  __device__ void back(int at, std::int64_t i, const float (&past)[rows_of_lane], float* dstate) {
    const std::int64_t t = token(i);
    const float v = tokens.v[at][own_column];
    const float dmixed = tokens.dmixed[at][own_column];
    const int warp = static_cast<int>(threadIdx.x) / 32;
    auto& sums = tokens.sums[at % tokens.buffers];
    float dv = 0;
    constexpr int columns_of_warp = 32 / parts;
#pragma unroll
    for (int first = 0; first < rows_of_lane; first += columns_of_warp) {
      float x[3][columns_of_warp];  // of as many rows: dq, dk, da, to be summed over columns
#pragma unroll
      for (int j = 0; j < columns_of_warp; ++j) {
        const int r = first + j;
        const int row = r * parts + part;
        const float present = after_token(at, r, past[r]);
        dstate[r] = fmaf(tokens.q[at][row], dmixed, dstate[r]);
        dv = fmaf(tokens.k[at][row], dstate[r], dv);
        x[0][j] = present * dmixed;
        x[1][j] = dstate[r] * v;
        x[2][j] = dstate[r] * past[r];
        dstate[r] = fmaf(tokens.stay[at][row], dstate[r], tokens.change[at][row] * dstate[r]);
      }
#pragma unroll
      for (int which = 0; which < 3; ++which) {
        const int j = metala::cuda::spread_sums(x[which], 16);
        sums[which][warp][(first + j) * parts + part] = x[which][0];
      }
    }
    dv += __shfl_xor_sync(0xffffffffu, dv, 1);
    dv += __shfl_xor_sync(0xffffffffu, dv, 2);
    if (part == 0 && real && b.to.v.data != nullptr) {
      add_to(b.to.v.row(t)[head * p.value_width + column], dv);
    }
    __syncthreads();
    const std::int64_t to =
        (blockIdx.y * b.tokens + t) * p.heads * p.key_width + head * p.key_width;
    for (int n = static_cast<int>(threadIdx.x); n < 3 * key_rows; n += threads) {
      const int row = n % key_rows;
      if (row >= p.key_width) continue;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < warps; ++w) sum += sums[n / key_rows][w][row];
      if (n < key_rows) {
        b.dq[to + row] = p.scale * sum;
      } else {
        (n < 2 * key_rows ? b.dk : b.da)[to + row] = sum;
      }
    }
    if (tokens.buffers == 1) __syncthreads();
  }

  // What a gradient of zero after the block's part of the walk becomes before it.
  __device__ void run_from_zero() {
    float dstate[rows_of_lane] = {};
    for (std::int64_t first = last_group(own_begin, own_end); first >= own_begin;
         first -= tokens_at_once) {
      const int count = group_size(first, own_end);
      load(first, count);
      for (int at = count - 1; at >= 0; --at) {
#pragma unroll
        for (int r = 0; r < rows_of_lane; ++r) {
          const int row = r * parts + part;
          const float after = fmaf(tokens.q[at][row], tokens.dmixed[at][own_column], dstate[r]);
          dstate[r] = fmaf(tokens.stay[at][row], after, tokens.change[at][row] * after);
        }
      }
    }
    float* const adds = b.dadded + added_at(cut, rows_of_lane);
#pragma unroll
    for (int r = 0; r < rows_of_lane; ++r) adds[r * threads] = dstate[r];
  }

  // The first token of the last group of a stretch that is not empty; else before its begin.
  __device__ static std::int64_t last_group(std::int64_t begin, std::int64_t end) {
    return end > begin ? begin + (end - begin - 1) / tokens_at_once * tokens_at_once : begin - 1;
  }
  __device__ static int group_size(std::int64_t first, std::int64_t end) {
    return static_cast<int>(end - first < tokens_at_once ? end - first : tokens_at_once);
  }

  __device__ void run() {
    if (own_begin >= length && cut > 0) return;
    const std::int64_t state_at =
        static_cast<std::int64_t>(blockIdx.x) * p.key_width * p.value_width;
    const auto element = [&](int r) {
      const int row = r * parts + part;
      return row < p.key_width && real ? state_at + row * p.value_width + column : -1;
    };
    float dstate[rows_of_lane];
#pragma unroll
    for (int r = 0; r < rows_of_lane; ++r) {
      const std::int64_t at = element(r);
      state[r] = p.before != nullptr && at >= 0 ? p.before[at] : 0.0f;
      dstate[r] = b.dafter != nullptr && at >= 0 ? b.dafter[at] : 0.0f;
    }
    for (int i = 0; i < cut; ++i) pass_segment(b.cut, b.cut.added, i, state);
    for (int i = static_cast<int>((length - 1) / b.cut.tokens); i > cut; --i) {
      pass_segment(b.cut, b.dadded, i, dstate);
    }
    forward(own_begin, own_end, [&](std::int64_t i) {
      if (i % segment == 0) keep(checkpoint(i / segment));
    });
    const std::int64_t first_segment = own_begin / segment;
    for (std::int64_t s = (own_end - 1) / segment; s >= first_segment && length > 0; --s) {
      const std::int64_t begin = s * segment;
      const std::int64_t end = begin + segment < own_end ? begin + segment : own_end;
      read(checkpoint(s), state);
      forward(begin, end, [&](std::int64_t i) { keep(history(i - begin)); });
      // Groups of tokens from the last. States are on their way while the token after is worked on,
      // where registers allow.
      constexpr bool early = rows_of_lane <= 16;
      float next[rows_of_lane];
      if (early) read(history(end - 1 - begin), next);
      for (std::int64_t first = last_group(begin, end); first >= begin; first -= tokens_at_once) {
        const int count = group_size(first, end);
        load(first, count);
        for (int at = count - 1; at >= 0; --at) {
          const std::int64_t own = first + at - begin;
          if (!early) read(history(own), next);
          float past[rows_of_lane];
#pragma unroll
          for (int r = 0; r < rows_of_lane; ++r) past[r] = next[r];
          if (early && own > 0) read(history(own - 1), next);
          back(at, first + at, past, dstate);
        }
      }
    }
    if (b.dbefore == nullptr || cut > 0) return;
#pragma unroll
    for (int r = 0; r < rows_of_lane; ++r) {
      if (element(r) >= 0) b.dbefore[element(r)] += dstate[r];
    }
  }
};

template <int rows_of_lane, class T>
__global__ void __launch_bounds__(threads, rows_of_lane <= 32 ? 2 : 1)
    recurrence_backward(Arguments<T> p, Backward<T> b, bool backwards) {
  extern __shared__ float memory[];
  using W = Walk<rows_of_lane, T>;
  W walk = {p, b, *reinterpret_cast<Tokens<W::key_rows>*>(memory), backwards};
  walk.run();
}

template <int rows_of_lane, class T>
__global__ void __launch_bounds__(threads)
    gradient_from_zero(Arguments<T> p, Backward<T> b, bool backwards) {
  extern __shared__ float memory[];
  using W = Walk<rows_of_lane, T>;
  W walk = {p, b, *reinterpret_cast<Tokens<W::key_rows>*>(memory), backwards};
  walk.run_from_zero();
}

// A thread for each token and channel. dq[0], dk[0] come back as what this token adds to the
// gradients of aug and of a fixed decay.
template <class T>
__global__ void __launch_bounds__(threads)
    add_up(Arguments<T> p, Backward<T> b, int blocks, bool augmented) {
  const int width = p.heads * p.key_width;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (index >= b.tokens * width) return;
  const std::int64_t t = index / width;
  const int channel = static_cast<int>(index % width);
  float dq = 0;
  float dk = 0;
  float da = 0;
  for (int block = 0; block < blocks; ++block) {
    const std::int64_t at = block * b.tokens * width + index;
    dq += b.dq[at];
    dk += b.dk[at];
    da += b.da[at];
  }
  const Gate g = p.gate_at(t, channel);
  float daug = 0;
  if (augmented) {
    const float dscore = b.dscore[t * p.heads + channel / p.key_width];
    const float q = to_float(p.q.row(t)[channel]);
    const float k = p.key_at(t, channel, g);
    const float weight = p.aug[channel];
    dq += dscore * k * weight;
    dk += dscore * q * weight;
    daug = dscore * q * k;
  }
  if (b.to.q.data != nullptr) add_to(b.to.q.row(t)[channel], dq);
  if (p.k.data != nullptr) {
    if (b.to.k.data != nullptr) add_to(b.to.k.row(t)[channel], dk);
    dk = 0;
  }
  float du = 0;
  if (p.decays()) {
    const float slope = g.keep * sigmoid(-p.logit_at(t, channel)) * p.inverse_temperature;
    du = (da - dk) * slope;
    if (b.to.u.data != nullptr) add_to(b.to.u.row(t)[channel], du);
  }
  b.dq[index] = daug;
  b.dk[index] = du;
}

template <int rows_of_lane, class T>
void recur(const Arguments<T>& p, const Backward<T>& b, unsigned sequence_heads, unsigned blocks,
           bool backwards, cudaStream_t stream) {
  constexpr std::size_t bytes = sizeof(Tokens<rows_of_lane * parts>);
  const dim3 grid(sequence_heads, blocks, static_cast<unsigned>(b.cut.segments));
  if (b.cut.segments > 1) {
    launch_from_zero<rows_of_lane>(p, b.cut, grid, backwards, stream);
    const auto from_zero = gradient_from_zero<rows_of_lane, T>;
    metala::cuda::allow_shared_memory(reinterpret_cast<const void*>(from_zero), bytes);
    from_zero<<<grid, threads, bytes, stream>>>(p, b, backwards);
  }
  const auto kernel = recurrence_backward<rows_of_lane, T>;
  metala::cuda::allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes);
  kernel<<<grid, threads, bytes, stream>>>(p, b, backwards);
}

template <class T>
void run(const Options& options, const Inputs& in, Offsets offsets, const Tensor& mixed,
         const Tensor& do_, const Tensor& dafter, const Gradients& to, cudaStream_t stream) {
  const Arguments<T> p = arguments<T>(options, in, offsets);
  const std::int64_t batch = batch_of(offsets);
  const std::int64_t tokens = in.q.size(0);
  const std::int64_t blocks = (p.value_width + columns - 1) / columns;
  const std::int64_t channels = in.q.size(1);
  const std::int64_t token_heads = tokens * p.heads;
  Backward<T> b = {};
  b.dafter = static_cast<const float*>(dafter.raw());
  b.dbefore = static_cast<float*>(to.before.raw());
  b.to = {rows<T>(to.q), rows<T>(to.u), rows<T>(to.k), rows<T>(to.v)};
  b.tokens = tokens;
  with_rows(p.key_width, [&]<int rows_of_lane>() {
    constexpr std::int64_t segment = segment_tokens<rows_of_lane>;
    constexpr std::int64_t state = rows_of_lane * threads;
    const std::int64_t walks = batch * p.heads * blocks;
    b.cut = cut_for(offsets, walks, segment, in.q.device());
    metala::cuda::Pieces::lay(in.q.device(), [&](metala::cuda::Pieces& pieces) {
      b.dmixed = pieces.take<T>(tokens * in.v.size(1));
      b.dscore = pieces.take<float>(token_heads);
      b.dq = pieces.take<float>(blocks * tokens * channels);
      b.dk = pieces.take<float>(blocks * tokens * channels);
      b.da = pieces.take<float>(blocks * tokens * channels);
      b.checkpoints = pieces.take<float>((tokens / segment + batch) * p.heads * blocks * state);
      b.history = pieces.take<float>(b.cut.segments * walks * segment * state);
      if (b.cut.segments == 1) return;
      b.cut.added = take_added(b.cut, walks, rows_of_lane, pieces);
      b.dadded = take_added(b.cut, walks, rows_of_lane, pieces);
      b.cut.lost = take_lost(b.cut, batch * p.heads, rows_of_lane, pieces);
    });
    backward_local(options, in, offsets, mixed, do_, b.dmixed, b.dscore, to);
    for (int pass = 0; pass < (options.bidirectional ? 2 : 1); ++pass) {
      recur<rows_of_lane>(p, b, static_cast<unsigned>(batch * p.heads),
                          static_cast<unsigned>(blocks), pass == 1, stream);
      if (tokens == 0) continue;
      const bool augmented = p.aug != nullptr && pass == 0;
      const auto grid = static_cast<unsigned>((tokens * channels + threads - 1) / threads);
      add_up<<<grid, threads, 0, stream>>>(p, b, static_cast<int>(blocks), augmented);
      const auto add_over_tokens = [&](const float* rows, const Tensor& sum) {
        if (!sum.defined()) return;
        metala::cuda::add_partial_sums(rows, tokens, channels, static_cast<float*>(sum.raw()),
                                       stream);
      };
      if (augmented) add_over_tokens(b.dq, to.aug);
      add_over_tokens(b.dk, to.fixed_decay);
    }
  });
}

}  // namespace

void backward(const Options& options, const Inputs& in, Offsets offsets, const Tensor& mixed,
              const Tensor& do_, const Tensor& dafter, const Gradients& to, const Tensor& states) {
  const auto stream = metala::cuda::enter(
      "metala_attention",
      {&in.q,      &in.u,  &in.k, &in.v,   &in.z,           &in.aug,   &in.fixed_decay,
       &in.before, &mixed, &do_,  &dafter, &states,         &to.q,     &to.u,
       &to.k,      &to.v,  &to.z, &to.aug, &to.fixed_decay, &to.before});
  if (batch_of(offsets) == 0) return;
  if (fits_chunks(options, in, to)) {
    return backward_in_chunks(options, in, offsets, mixed, do_, dafter, to, states);
  }
  if (fits_padded(options, in)) {
    return backward_padded(options, in, offsets, mixed, do_, dafter, to);
  }
  metala::cuda::with_type(in.q.dtype(), [&]<class T>(T) {
    run<T>(options, in, offsets, mixed, do_, dafter, prepared(to), stream);
  });
  metala::cuda::check_launch("metala_attention, backward");
}

}  // namespace metala::metala_attention::cuda
