// Each thread walks a run of tokens down one channel, or a few neighbours (with few taps as many as
// 16 bytes hold), and keeps the last W inputs in registers, so x is read once (and W-1 tokens more
// at the start of a run). Tokens are loaded in groups, so that many loads are on their way at once.
//
// Backwards a thread walks its run forwards too, with the pre-activations computed again: token t
// is the last to add to the gradient of input t-W+1, so W unfinished gradients wait in registers
// and a run reads W-1 tokens beyond its end.
#include <algorithm>

#include "metala/device/cuda/column_sums.h"
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/exponentials.cuh"
#include "metala/device/cuda/ragged.cuh"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/short_conv/short_conv_cuda.h"

namespace metala::short_conv::cuda {
namespace {

using metala::cuda::Few;
using metala::cuda::Floats;
using metala::cuda::from_float;
using metala::cuda::load;
using metala::cuda::logistic;
using metala::cuda::sequence_of_warp;
using metala::cuda::store;
using metala::cuda::to_float;

constexpr int threads = 128;
constexpr int blocks_at_once = 4;  // on a multiprocessor

// Of n channels, for the last W tokens or the W taps.
template <int W, int n>
using Window = float[W][n];

template <class T>
struct Problem {
  const T* x;
  std::int64_t x_stride;
  const float* weight;
  const std::int64_t* offsets;
  std::int64_t batch;
  const float* before;
  T* y;
  std::int64_t y_stride;
  float* after;
  int width;  // d
  int run;    // tokens of a thread
};

// Input t of a sequence that starts at `start`; negative positions lie in the state.
template <int W, class T>
__device__ float input(const Problem<T>& p, std::int64_t sequence, std::int64_t start,
                       std::int64_t t, int channel) {
  if (t >= start) return to_float(p.x[t * p.x_stride + channel]);
  if (p.before == nullptr || t < start - W) return 0;
  return p.before[(sequence * p.width + channel) * W + (t - start + W)];
}

template <int W, int n, class T>
__device__ __forceinline__ void load_taps(const Problem<T>& p, int channel, Window<W, n>& taps) {
  const float* const from = p.weight + channel * W;
  constexpr int pack = n * W % 4 == 0 ? 4 : 1;
#pragma unroll
  for (int i = 0; i < n * W; i += pack) {
    const Floats<pack> part = load<pack>(from + i);
#pragma unroll
    for (int k = 0; k < pack; ++k) taps[(i + k) % W][(i + k) / W] = part.at[k];
  }
}

template <int W, int n>
__device__ __forceinline__ void store_taps(const Window<W, n>& taps, float* to) {
  constexpr int pack = n * W % 4 == 0 ? 4 : 1;
#pragma unroll
  for (int i = 0; i < n * W; i += pack) {
    Floats<pack> part;
#pragma unroll
    for (int k = 0; k < pack; ++k) part.at[k] = taps[(i + k) % W][(i + k) / W];
    store(part, to + i);
  }
}

// The inputs before token t, oldest first.
template <int W, int n, class T>
__device__ __forceinline__ void load_window(const Problem<T>& p, std::int64_t sequence,
                                            std::int64_t start, std::int64_t t, int channel,
                                            Window<W, n>& window) {
#pragma unroll
  for (int j = 0; j < W; ++j) {
    Floats<n> row;
    if (t - W + j >= start) {
      row = load<n>(p.x + (t - W + j) * p.x_stride + channel);
    } else {
#pragma unroll
      for (int c = 0; c < n; ++c) {
        row.at[c] = input<W>(p, sequence, start, t - W + j, channel + c);
      }
    }
#pragma unroll
    for (int c = 0; c < n; ++c) window[j][c] = row.at[c];
  }
}

// The oldest goes, `next` comes.
template <int W, int n>
__device__ __forceinline__ void shift(Window<W, n>& window, const Floats<n>& next) {
#pragma unroll
  for (int j = 0; j + 1 < W; ++j) {
#pragma unroll
    for (int c = 0; c < n; ++c) window[j][c] = window[j + 1][c];
  }
#pragma unroll
  for (int c = 0; c < n; ++c) window[W - 1][c] = next.at[c];
}

template <int W, int n>
__device__ __forceinline__ float dot(const Window<W, n>& taps, const Window<W, n>& window, int c) {
  float sum = 0;
#pragma unroll
  for (int j = 0; j < W; ++j) sum += taps[j][c] * window[j][c];
  return sum;
}

// `count` rows, as they lie in memory.
template <class T, int n, int count>
struct Group {
  Few<T, n> at[count];

  // Rows first .. of those in [begin, end); the others are zero. All are there, if `whole`.
  template <bool whole>
  __device__ __forceinline__ void load(const T* from, std::int64_t stride, int first, int begin,
                                       int end) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      if constexpr (!whole) at[i] = {};
      if (whole || (first + i >= begin && first + i < end)) {
        at[i] = *reinterpret_cast<const Few<T, n>*>(from + (first + i) * stride);
      }
    }
  }
};

template <int n, class T>
__device__ __forceinline__ Floats<n> floats(const Few<T, n>& few) {
  Floats<n> all;
#pragma unroll
  for (int c = 0; c < n; ++c) all.at[c] = to_float(few.at[c]);
  return all;
}

constexpr int forward_group = 8;

// The silu of tokens first .. of a piece of `count`; of a whole group, if `whole`.
template <bool whole, int W, int n, class T>
__device__ __forceinline__ void take_group(const Problem<T>& p, const T* x_rows, T* y_rows,
                                           int first, int count, const Window<W, n>& taps,
                                           Window<W, n>& window) {
  Group<T, n, forward_group> x;
  x.template load<whole>(x_rows, p.x_stride, first, 0, count);
#pragma unroll
  for (int i = 0; i < forward_group; ++i) {
    if (!whole && first + i >= count) return;
    shift<W, n>(window, floats(x.at[i]));
    Floats<n> y;
#pragma unroll
    for (int c = 0; c < n; ++c) {
      const float sum = dot<W, n>(taps, window, c);
      y.at[c] = logistic<T>(sum, sum);
    }
    store(y, y_rows + (first + i) * p.y_stride);
  }
}

template <int W, int n, class T>
__global__ void __launch_bounds__(threads, blocks_at_once)
    forward_runs(const Problem<T> p, std::int64_t tokens) {
  std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * p.run;
  std::int64_t sequence = sequence_of_warp(p.offsets, p.batch, t);
  const int channel = static_cast<int>(blockIdx.y * threads + threadIdx.x) * n;
  if (channel >= p.width) return;
  const std::int64_t end = t + p.run < tokens ? t + p.run : tokens;
  Window<W, n> taps;
  load_taps<W, n>(p, channel, taps);
  while (t < end) {
    while (p.offsets[sequence + 1] <= t) ++sequence;  // past sequences of no tokens
    const std::int64_t start = p.offsets[sequence];
    const std::int64_t stop = p.offsets[sequence + 1] < end ? p.offsets[sequence + 1] : end;
    Window<W, n> window;
    load_window<W, n>(p, sequence, start, t, channel, window);
    const T* const x_rows = p.x + t * p.x_stride + channel;
    T* const y_rows = p.y + t * p.y_stride + channel;
    const int count = static_cast<int>(stop - t);
    int first = 0;
    for (; first + forward_group <= count; first += forward_group) {
      take_group<true, W, n>(p, x_rows, y_rows, first, count, taps, window);
    }
    if (first < count) take_group<false, W, n>(p, x_rows, y_rows, first, count, taps, window);
    t = stop;
  }
}

// The last W inputs of each sequence. `after` may be `before`: a thread reads all of its window
// before it writes any.
template <int W, class T>
__global__ void __launch_bounds__(threads) final_states(Problem<T> p) {
  const int channel = static_cast<int>(blockIdx.x * threads + threadIdx.x);
  const std::int64_t sequence = blockIdx.y;
  if (channel >= p.width) return;
  const std::int64_t start = p.offsets[sequence];
  const std::int64_t end = p.offsets[sequence + 1];
  float window[W];
#pragma unroll
  for (int j = 0; j < W; ++j) window[j] = input<W>(p, sequence, start, end - W + j, channel);
#pragma unroll
  for (int j = 0; j < W; ++j) p.after[(sequence * p.width + channel) * W + j] = window[j];
}

template <class T>
struct Gradients {
  const T* dy;
  std::int64_t dy_stride;
  const float* dafter;
  T* dx;
  std::int64_t dx_stride;
  float* dweight;  // [runs, d, W]
  float* dbefore;
};

// Of silu.
template <class T>
__device__ __forceinline__ float slope(float sum) {
  const float s = logistic<T>(sum);
  return s * fmaf(sum, 1 - s, 1.0f);
}

template <class T>
__device__ __forceinline__ void add_to(T& at, float value) {
  at = from_float<T>(to_float(at) + value);
}

// What a thread's walk back holds: the last inputs, and the unfinished gradients of inputs, of
// which waiting[j] is of token t-W+1+j; sums for the taps.
template <int W, int n>
struct Walk {
  Window<W, n> taps, dtaps, window, waiting;
};

constexpr int backward_group = 4;

// What a group of tokens reads, fetched while the one before it is worked on.
template <class T, int n>
struct GroupBack {
  Group<T, n, backward_group> x, dy;
};

// Tokens `first` .. of a piece: `count` are its own, the rest only finish gradients. All are its
// own and all finish one, if `whole`.
template <bool whole, bool add, int W, int n, class T>
__device__ __forceinline__ void take_group_back(const Gradients<T>& g, const GroupBack<T, n>& rows,
                                                T* dx_rows, int first, int count,
                                                Walk<W, n>& walk) {
  Group<T, n, backward_group> dx;
  if constexpr (add) dx.template load<whole>(dx_rows, g.dx_stride, first - W + 1, 0, count);
  T* dx_row = dx_rows + (first - W + 1) * g.dx_stride;
#pragma unroll
  for (int i = 0; i < backward_group; ++i, dx_row += g.dx_stride) {
    // Beyond what is known dy is zero, and with it all that is added.
    shift<W, n>(walk.window, floats(rows.x.at[i]));
    shift<W, n>(walk.waiting, Floats<n>());
    const Floats<n> gradient = floats(rows.dy.at[i]);
#pragma unroll
    for (int c = 0; c < n; ++c) {
      const float dsum = gradient.at[c] * slope<T>(dot<W, n>(walk.taps, walk.window, c));
      const float counted = whole || first + i < count ? dsum : 0.0f;
#pragma unroll
      for (int j = 0; j < W; ++j) {
        walk.waiting[j][c] += dsum * walk.taps[j][c];
        walk.dtaps[j][c] += counted * walk.window[j][c];
      }
    }
    const int done = first + i - W + 1;
    if (!whole && (done < 0 || done >= count)) continue;
    Floats<n> sum = {};
    if constexpr (add) sum = floats(dx.at[i]);
#pragma unroll
    for (int c = 0; c < n; ++c) sum.at[c] += walk.waiting[0][c];
    store(sum, dx_row);
  }
}

template <bool add, int W, int n, class T>
__global__ void __launch_bounds__(threads, blocks_at_once)
    backward_runs(const Problem<T> p, const Gradients<T> g, std::int64_t tokens) {
  std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * p.run;
  std::int64_t sequence = sequence_of_warp(p.offsets, p.batch, t);
  const int channel = static_cast<int>(blockIdx.y * threads + threadIdx.x) * n;
  if (channel >= p.width) return;
  const std::int64_t end = t + p.run < tokens ? t + p.run : tokens;
  Walk<W, n> walk = {};
  load_taps<W, n>(p, channel, walk.taps);
  while (t < end) {
    while (p.offsets[sequence + 1] <= t) ++sequence;
    const std::int64_t start = p.offsets[sequence];
    const std::int64_t sequence_end = p.offsets[sequence + 1];
    const std::int64_t stop = sequence_end < end ? sequence_end : end;
    const std::int64_t reach = stop + W - 1 < sequence_end ? stop + W - 1 : sequence_end;
    // Tokens of the piece, from its first; beyond its own, those that finish its gradients.
    const T* const x_rows = p.x + t * p.x_stride + channel;
    const T* const dy_rows = g.dy + t * g.dy_stride + channel;
    T* const dx_rows = g.dx + t * g.dx_stride + channel;
    const int count = static_cast<int>(stop - t);
    const int known = static_cast<int>(reach - t);
    GroupBack<T, n> next;
    const auto fetch = [&](int first) {
      if (first + backward_group <= known) {
        next.x.template load<true>(x_rows, p.x_stride, first, 0, known);
        next.dy.template load<true>(dy_rows, g.dy_stride, first, 0, known);
      } else {
        next.x.template load<false>(x_rows, p.x_stride, first, 0, known);
        next.dy.template load<false>(dy_rows, g.dy_stride, first, 0, known);
      }
    };
    fetch(0);
    load_window<W, n>(p, sequence, start, t, channel, walk.window);
#pragma unroll
    for (auto& row : walk.waiting) {
#pragma unroll
      for (float& gradient : row) gradient = 0;
    }
    for (int first = 0; first < count + W - 1; first += backward_group) {
      const GroupBack<T, n> rows = next;
      fetch(first + backward_group);
      if (first >= W - 1 && first + backward_group <= count) {
        take_group_back<true, add>(g, rows, dx_rows, first, count, walk);
      } else {
        take_group_back<false, add>(g, rows, dx_rows, first, count, walk);
      }
    }
    t = stop;
  }
  store_taps<W, n>(walk.dtaps,
                   g.dweight + (static_cast<std::int64_t>(blockIdx.x) * p.width + channel) * W);
}

// What flows through the states of a sequence: dafter into its last inputs, the first tokens' taps
// and dafter of short sequences into dbefore.
template <int W, class T>
__global__ void __launch_bounds__(threads) backward_states(Problem<T> p, Gradients<T> g) {
  const int channel = static_cast<int>(blockIdx.x * threads + threadIdx.x);
  const std::int64_t sequence = blockIdx.y;
  if (channel >= p.width) return;
  const std::int64_t start = p.offsets[sequence];
  const std::int64_t end = p.offsets[sequence + 1];
  const std::int64_t state = (sequence * p.width + channel) * W;
  float carried[W];  // of the W inputs before the sequence
#pragma unroll
  for (int j = 0; j < W; ++j) carried[j] = 0;
  if (g.dafter != nullptr) {
    const int length = end - start < W ? static_cast<int>(end - start) : W;
#pragma unroll
    for (int j = 0; j < W; ++j) {
      const float gradient = g.dafter[state + j];
      if (j >= W - length) {
        add_to(g.dx[(end - W + j) * g.dx_stride + channel], gradient);
        continue;
      }
#pragma unroll
      for (int i = 0; i < W; ++i) {
        if (i == j + length) carried[i] += gradient;
      }
    }
  }
  if (g.dbefore == nullptr) return;
  float taps[W];
#pragma unroll
  for (int j = 0; j < W; ++j) taps[j] = p.weight[channel * W + j];
#pragma unroll
  for (int i = 0; i < W - 1; ++i) {
    const std::int64_t t = start + i;
    if (t >= end) break;
    float window[W];
#pragma unroll
    for (int j = 0; j < W; ++j) {
      window[j] = input<W>(p, sequence, start, t - W + 1 + j, channel);
    }
    float sum = 0;
#pragma unroll
    for (int j = 0; j < W; ++j) sum += taps[j] * window[j];
    const float dsum = to_float(g.dy[t * g.dy_stride + channel]) * slope<T>(sum);
    // Tap j reads input i-W+1+j of the sequence: state entry i+1+j.
#pragma unroll
    for (int j = 0; j + i + 1 < W; ++j) carried[i + 1 + j] += dsum * taps[j];
  }
#pragma unroll
  for (int j = 0; j < W; ++j) g.dbefore[state + j] += carried[j];
}

// Channels of a thread: `most` where there are few taps and rows allow it, else one.
template <int W, int most, class F>
void with_channels(std::initializer_list<const Tensor*> rows, F&& f) {
  if constexpr (W <= 4) {
    const auto fits = [](const Tensor* t) {
      return t->size(1) % most == 0 && t->stride(0) % most == 0 &&
             reinterpret_cast<std::uintptr_t>(t->raw()) % (most * bytes_of(t->dtype(), 1)) == 0;
    };
    if (std::all_of(rows.begin(), rows.end(), fits)) return f.template operator()<most>();
  }
  f.template operator()<1>();
}

// Runs of as many tokens as let all blocks be at work at once, within limits.
struct Runs {
  int tokens;
  dim3 blocks;  // runs by parts of the width
};
template <int n>
Runs runs_for(const Tensor& x, int group) {
  const auto parts = [](std::int64_t all, std::int64_t of) { return (all + of - 1) / of; };
  const std::int64_t columns = parts(x.size(1), std::int64_t{threads} * n);
  const std::int64_t at_once = blocks_at_once * metala::cuda::multiprocessors(x.device());
  const std::int64_t even = parts(parts(x.size(0) * columns, at_once), group) * group;
  const std::int64_t tokens = std::clamp<std::int64_t>(even, 32, 256);
  return {static_cast<int>(tokens),
          dim3(static_cast<unsigned>(parts(x.size(0), tokens)), static_cast<unsigned>(columns))};
}

// f.template operator()<W>() for the width at hand.
template <int W, class F>
void with_width(std::int64_t width, F&& f) {
  if (width == W) return f.template operator()<W>();
  if constexpr (W < 16) with_width<W + 1>(width, f);
}

}  // namespace

void forward(const Tensor& x, const Tensor& weight, Offsets offsets, const Tensor& before, Tensor y,
             Tensor after) {
  const auto stream = metala::cuda::enter("short_conv", {&x, &weight, &before, &y, &after});
  const auto batch = batch_of(offsets);
  const auto channels = static_cast<unsigned>((x.size(1) + threads - 1) / threads);
  metala::cuda::with_type(x.dtype(), [&]<class T>(T) {
    Problem<T> p = {static_cast<const T*>(x.raw()),
                    x.stride(0),
                    static_cast<const float*>(weight.raw()),
                    offsets.there(),
                    batch,
                    static_cast<const float*>(before.raw()),
                    static_cast<T*>(y.raw()),
                    y.stride(0),
                    static_cast<float*>(after.raw()),
                    static_cast<int>(x.size(1)),
                    0};
    with_width<1>(weight.size(1), [&]<int W>() {
      if (x.size(0) > 0) {
        with_channels<W, 16 / sizeof(T)>({&x, &y}, [&]<int n>() {
          const Runs runs = runs_for<n>(x, forward_group);
          p.run = runs.tokens;
          forward_runs<W, n><<<runs.blocks, threads, 0, stream>>>(p, x.size(0));
        });
      }
      if (after.defined() && batch > 0) {
        final_states<W><<<dim3(channels, static_cast<unsigned>(batch)), threads, 0, stream>>>(p);
      }
    });
  });
  metala::cuda::check_launch("short_conv");
}

void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, Offsets offsets,
              const Tensor& before, const Tensor& dafter, Tensor dx, Tensor dweight, Tensor dbefore,
              Write dx_write) {
  const auto stream = metala::cuda::enter(
      "short_conv", {&dy, &x, &weight, &before, &dafter, &dx, &dweight, &dbefore});
  const auto batch = batch_of(offsets);
  const std::int64_t taps = weight.count();
  const auto channels = static_cast<unsigned>((x.size(1) + threads - 1) / threads);
  metala::cuda::with_type(x.dtype(), [&]<class T>(T) {
    Problem<T> p = {};
    p.x = static_cast<const T*>(x.raw());
    p.x_stride = x.stride(0);
    p.weight = static_cast<const float*>(weight.raw());
    p.offsets = offsets.there();
    p.batch = batch;
    p.before = static_cast<const float*>(before.raw());
    p.width = static_cast<int>(x.size(1));
    Gradients<T> g = {
        static_cast<const T*>(dy.raw()),   dy.stride(0), static_cast<const float*>(dafter.raw()),
        static_cast<T*>(dx.raw()),         dx.stride(0), nullptr,
        static_cast<float*>(dbefore.raw())};
    with_width<1>(weight.size(1), [&]<int W>() {
      if (x.size(0) > 0) {
        with_channels<W, 8 / sizeof(T)>({&dy, &x, &dx}, [&]<int n>() {
          const Runs runs = runs_for<n>(x, backward_group);
          p.run = runs.tokens;
          g.dweight = static_cast<float*>(
              metala::cuda::workspace(x.device(), runs.blocks.x * taps * sizeof(float)));
          const auto kernel = dx_write == Write::accumulate ? backward_runs<true, W, n, T>
                                                            : backward_runs<false, W, n, T>;
          kernel<<<runs.blocks, threads, 0, stream>>>(p, g, x.size(0));
          metala::cuda::add_partial_sums(g.dweight, runs.blocks.x, taps,
                                         static_cast<float*>(dweight.raw()), stream);
        });
      }
      if (batch > 0 && (dafter.defined() || dbefore.defined())) {
        const dim3 grid(channels, static_cast<unsigned>(batch));
        backward_states<W><<<grid, threads, 0, stream>>>(p, g);
      }
    });
  });
  metala::cuda::check_launch("short_conv, backward");
}

}  // namespace metala::short_conv::cuda
