// What a block does with its head, segment by chunk by chunk (metala_attention_chunk_cuda.cu
// launches it). README.md, "On NVIDIA GPUs", derives the halving of a chunk that keeps every factor
// at most 1.
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

constexpr int chunk = 64;  // tokens
constexpr int levels = 6;  // halvings of a chunk

// What a walk over the chunks is for. Backwards it carries the gradient of the state, whose
// recurrence has the same form: dS <- decay dS + read^T (scale dc), from the last chunk to the
// first.
enum class Pass {
  totals,       // what each segment adds to a state of zero, and its decay
  outputs,      // o, from the state before each segment
  states,       // the state before each chunk
  totals_back,  // the same of the state's gradient,
  states_back,  // which is that after each chunk
};

struct Problem {
  const Bf16 *q, *u, *v;  // backwards v is dc, the gradient of the outputs
  std::int64_t q_stride, u_stride, v_stride, o_stride;
  const float* before;  // [B, H, K, D], or null; backwards the gradient of the state at the end
  Bf16* o;
  float* after;        // null: not wanted; backwards dS at the start is added
  Bf16* chunk_states;  // [chunk (chunk_place), H, K, D]
  // Of segments, when there are several in a sequence: [segment, B * H, K, D] and [.., K].
  float* segment_states;
  float* segment_decays;
  const std::int64_t* offsets;
  int heads, batch, segments;
  std::int64_t segment_tokens;  // a multiple of the chunk
  float inverse_temperature, scale;
};

// Where a chunk lies among those of all sequences: each sequence has room for a chunk of its own
// where the tokens before it end within one.
__device__ __forceinline__ std::int64_t chunk_place(const std::int64_t* offsets,
                                                    std::int64_t sequence) {
  return offsets[sequence] / chunk + sequence;
}

// What a block works on: a head's slice of columns over a segment of a sequence.
template <int key_width, int value_width>
struct Place {
  int head, column;
  std::int64_t sequence_head, sequence, first, tokens;
  int segment;
  bool last;  // of the sequence: the first segment of an empty one

  __device__ __forceinline__ Place(const Problem& p, int slice, int which) {
    sequence_head = blockIdx.x;
    head = static_cast<int>(blockIdx.x) % p.heads;
    segment = which;
    column = static_cast<int>(blockIdx.y) * slice;
    sequence = static_cast<std::int64_t>(blockIdx.x) / p.heads;
    const std::int64_t start = p.offsets[sequence] + segment * p.segment_tokens;
    const std::int64_t end = p.offsets[sequence + 1];
    first = start;
    tokens = end > start ? end - start : 0;
    last = tokens > 0 ? tokens <= p.segment_tokens : segment == 0;
    if (tokens > p.segment_tokens) tokens = p.segment_tokens;
  }
  __device__ __forceinline__ std::int64_t state_at(const Problem& p) const {
    return (static_cast<std::int64_t>(segment) * p.batch * p.heads + sequence_head) * key_width *
           value_width;
  }
};

template <int key_width, int value_width, Pass pass>
struct Kernel {
  static constexpr bool outputs = pass == Pass::outputs;
  static constexpr bool totals = pass == Pass::totals || pass == Pass::totals_back;
  static constexpr bool states = pass == Pass::states || pass == Pass::states_back;
  static constexpr bool backwards = pass == Pass::totals_back || pass == Pass::states_back;
  static constexpr bool queries = outputs || backwards;
  static constexpr int keys = key_width < 64 ? key_width : 64;  // channels worked on at once
  static constexpr int key_blocks = key_width / keys;
  static constexpr int slice = value_width < 128 ? value_width : 128;  // columns of a block
  // Warps: four tiles of 16 tokens (or channels) by some groups of columns.
  static constexpr int groups = outputs && slice >= 64 ? 4 : 2;
  static constexpr int blocks_at_once = outputs ? 1 : 2;  // on a multiprocessor
  static constexpr int threads = 128 * groups;
  static constexpr int group_columns = slice / groups;
  static constexpr int column_tiles = group_columns / 8;  // of a warp
  static constexpr int pairs = keys / 2;                  // threads own two channels and
  static constexpr int runs = threads / pairs;            // a run of tokens
  static constexpr int run = chunk / runs;

  // Shared memory, in bf16: inputs twice, tiles of the channels at work, the state.
  static constexpr int key_tile = Tile<keys>::bytes(chunk) / 2;
  static constexpr int input_keys = Tile<key_width>::bytes(chunk) / 2;
  static constexpr int input_values = Tile<slice>::bytes(chunk) / 2;
  static constexpr int inputs = (queries ? 2 : 1) * input_keys + input_values;
  static constexpr int tiles = outputs ? levels + 3 : 1;
  static constexpr int state_tile = outputs ? Tile<slice>::bytes(keys) / 2 : 0;
  static constexpr int score_tile = outputs ? Tile<chunk>::bytes(chunk) / 2 : 0;
  static constexpr int total_floats = runs * keys;
  static constexpr std::size_t bytes =
      2 * (2 * inputs + tiles * key_tile + state_tile + score_tile) + 4 * (total_floats + keys);

  const Problem& p;
  const Place<key_width, value_width> place;
  Bf16* const memory;
  float* const run_totals;  // [runs, keys]: the product of a run's decays
  float* const decay;       // [keys]: of the chunk's
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row_tile = static_cast<int>(threadIdx.x) / 32 % 4;  // of tokens, and of channels
  const int group = static_cast<int>(threadIdx.x) / 128;        // of the slice's columns
  Sums state[key_blocks][column_tiles];
  // Scores: of the warp's tokens with the 16 tokens of every `groups`-th tile from its group's on.
  static constexpr int score_tiles = 4 / groups;
  Sums score[score_tiles][2];
  Sums out[column_tiles];

  __device__ __forceinline__ Kernel(const Problem& problem, Bf16* shared, int segment)
      : p(problem),
        place(problem, slice, segment),
        memory(shared),
        run_totals(reinterpret_cast<float*>(shared + 2 * inputs + tiles * key_tile + state_tile +
                                            score_tile)),
        decay(run_totals + total_floats) {}

  // Input tiles of buffer 0 or 1.
  __device__ __forceinline__ Tile<key_width> u(int b) const { return {memory + b * inputs}; }
  __device__ __forceinline__ Tile<slice> v(int b) const {
    return {memory + b * inputs + input_keys};
  }
  __device__ __forceinline__ Tile<key_width> q(int b) const {
    return {memory + b * inputs + input_keys + input_values};
  }
  // Tiles of the channels at work. Level n of the halving joins blocks of 2^n tokens.
  __device__ __forceinline__ Tile<keys> tile(int i) const {
    return {memory + 2 * inputs + i * key_tile};
  }
  __device__ __forceinline__ Tile<keys> write() const { return tile(0); }
  __device__ __forceinline__ Tile<keys> read() const { return tile(1); }
  __device__ __forceinline__ Tile<keys> key() const { return tile(2); }
  __device__ __forceinline__ Tile<keys> level(int n) const { return tile(3 + n); }
  __device__ __forceinline__ Tile<slice> state_copy() const {
    return {memory + 2 * inputs + tiles * key_tile};
  }

  __device__ __forceinline__ Tile<chunk> scores() const {
    return {memory + 2 * inputs + tiles * key_tile + state_tile};
  }

  template <int columns>
  __device__ __forceinline__ void fetch_rows(Tile<columns> to, const Bf16* from,
                                             std::int64_t stride, int column,
                                             std::int64_t done) const {
    constexpr int packs = columns / 8;
    for (int i = static_cast<int>(threadIdx.x); i < chunk * packs; i += threads) {
      const int t = i / packs;
      const int at = i % packs * 8;
      const bool real = done + t < place.tokens;
      const std::int64_t token = place.first + (real ? done + t : 0);
      metala::cuda::copy_async(to.at(t, at), from + token * stride + column + at, real);
    }
  }

  __device__ __forceinline__ void fetch(int buffer, std::int64_t done) const {
    if (done < place.tokens) {
      fetch_rows(u(buffer), p.u, p.u_stride, place.head * key_width, done);
      fetch_rows(v(buffer), p.v, p.v_stride, place.head * value_width + place.column, done);
      if constexpr (queries) {
        fetch_rows(q(buffer), p.q, p.q_stride, place.head * key_width, done);
      }
    }
    metala::cuda::commit_copies();
  }

  // From the gates of `keys` channels to the tiles that the products take. A thread holds a run of
  // tokens of two channels.
  __device__ __forceinline__ void prepare(int buffer, int key_block, std::int64_t done) const {
    const int channel = static_cast<int>(threadIdx.x) % pairs * 2;
    const int own = static_cast<int>(threadIdx.x) / pairs;  // the run
    const int first = own * run;
    float2 before_t[run], after_t[run], k[run], query[run];
    // before_t: the product of decays from the start of the block that holds token t up to t;
    // after_t: from t + 1 to its end. Blocks of one token at first.
#pragma unroll
    for (int j = 0; j < run; ++j) {
      const int t = first + j;
      const bool real = done + t < place.tokens;
      const auto logits = __bfloat1622float2(
          *reinterpret_cast<const __nv_bfloat162*>(u(buffer).at(t, key_block * keys + channel)));
      const Gate x = fast_gate(logits.x, p.inverse_temperature);
      const Gate y = fast_gate(logits.y, p.inverse_temperature);
      before_t[j] = real ? make_float2(x.keep, y.keep) : make_float2(1, 1);
      k[j] = real ? make_float2(x.lose, y.lose) : make_float2(0, 0);
      after_t[j] = make_float2(1, 1);
      if constexpr (queries) {
        query[j] = __bfloat1622float2(
            *reinterpret_cast<const __nv_bfloat162*>(q(buffer).at(t, key_block * keys + channel)));
      }
      if constexpr (outputs) put(key(), t, channel, k[j]);
    }
    const auto put_level = [&](int n, int j, bool upper) {
      if constexpr (outputs) {
        put(level(n), first + j, channel,
            upper ? product(query[j], before_t[j]) : product(k[j], after_t[j]));
      }
    };
    // Blocks of `size` tokens join to blocks of twice the size, while they lie in the run.
    int n = 0;
#pragma unroll
    for (int size = 1; size < run; size *= 2, ++n) {
#pragma unroll
      for (int j = 0; j < run; ++j) put_level(n, j, (j & size) != 0);
#pragma unroll
      for (int block = 0; block < run; block += 2 * size) {
        const float2 lower = before_t[block + size - 1];
        const float2 upper = before_t[block + 2 * size - 1];
#pragma unroll
        for (int j = 0; j < size; ++j) {
          after_t[block + j] = product(after_t[block + j], upper);
          before_t[block + size + j] = product(before_t[block + size + j], lower);
        }
      }
    }
    *reinterpret_cast<float2*>(run_totals + own * keys + channel) = before_t[run - 1];
    __syncthreads();
    // Beyond the run all of its tokens share a factor.
    const auto total_of = [&](int from, int count) {
      float2 total = make_float2(1, 1);
      for (int i = 0; i < count; ++i) {
        total = product(total,
                        *reinterpret_cast<const float2*>(run_totals + (from + i) * keys + channel));
      }
      return total;
    };
#pragma unroll
    for (int size = run; size < chunk; size *= 2, ++n) {
      const int block = first / size;  // the sibling: block ^ 1
      const float2 sibling = total_of((block ^ 1) * (size / run), size / run);
      if ((block & 1) != 0) {
#pragma unroll
        for (int j = 0; j < run; ++j) {
          put_level(n, j, true);
          before_t[j] = product(before_t[j], sibling);
        }
      } else {
#pragma unroll
        for (int j = 0; j < run; ++j) {
          put_level(n, j, false);
          after_t[j] = product(after_t[j], sibling);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < run; ++j) {
      if constexpr (backwards) {
        const float2 scaled = make_float2(query[j].x * p.scale, query[j].y * p.scale);
        put(write(), first + j, channel, product(scaled, before_t[j]));
      } else {
        put(write(), first + j, channel, product(k[j], after_t[j]));
      }
      if constexpr (outputs) put(read(), first + j, channel, product(query[j], before_t[j]));
    }
    if (own == runs - 1) *reinterpret_cast<float2*>(decay + channel) = before_t[run - 1];
  }

  static __device__ __forceinline__ float2 product(float2 a, float2 b) {
    return make_float2(a.x * b.x, a.y * b.y);
  }

  static __device__ __forceinline__ void put(Tile<keys> tile, int t, int channel, float2 value) {
    *reinterpret_cast<std::uint32_t*>(tile.at(t, channel)) = packed(value.x, value.y);
  }

  // The state before the chunk, rounded, as an operand.
  __device__ __forceinline__ void copy_state(int key_block) const {
    if (row_tile * 16 >= keys) return;
    const int row = row_tile * 16 + lane / 4;
#pragma unroll
    for (int n = 0; n < column_tiles; ++n) {
      const int column = group * group_columns + n * 8 + lane % 4 * 2;
      const Sums& s = state[key_block][n];
      *reinterpret_cast<std::uint32_t*>(state_copy().at(row, column)) = packed(s.at[0], s.at[1]);
      *reinterpret_cast<std::uint32_t*>(state_copy().at(row + 8, column)) =
          packed(s.at[2], s.at[3]);
    }
  }

  // sums += the products of the warp's 16 rows of `a` with 16 rows of `b` from `row` on, the first
  // `halves` eights of them. `k` is where the channels at work begin in `a`.
  template <int halves, int columns>
  __device__ __forceinline__ void add_products(Sums* sums, Tile<columns> a, int k, Tile<keys> b,
                                               int row) const {
#pragma unroll
    for (int i = 0; i < keys; i += 32) {
      const FragmentA first = a.as_a(row_tile * 16, k + i);
      const FragmentA second = a.as_a(row_tile * 16, k + i + 16);
#pragma unroll
      for (int n = 0; n < halves; ++n) {
        FragmentB other[2];
        b.transposed_as_b(row + n * 8, i, other);
        metala::cuda::multiply(sums[n], first, other[0]);
        metala::cuda::multiply(sums[n], second, other[1]);
      }
    }
  }

  // The scores of the warp's 16 tokens among themselves: pairs meet at the level of the highest bit
  // in which they differ, the later one in the upper half.
  __device__ __forceinline__ void add_own_scores(Sums* into, Tile<key_width> queries,
                                                 int key_block) const {
    const auto take = [&](const Sums* sums, auto meet) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = lane / 4 + i / 2 * 8;
          const int column = n * 8 + lane % 4 * 2 + i % 2;
          if (meet(row, column)) into[n].at[i] += sums[n].at[i];
        }
      }
    };
#pragma unroll
    for (int l = 0; l < 4; ++l) {
      Sums sums[2] = {};
      if (l == 3) {
        add_products<1>(sums, level(l), 0, level(l),
                        row_tile * 16);  // columns 8.. are no lower half
      } else {
        add_products<2>(sums, level(l), 0, level(l), row_tile * 16);
      }
      take(sums, [l](int row, int column) { return row > column && ((row ^ column) >> l) == 1; });
    }
    Sums sums[2] = {};
    add_products<2>(sums, queries, key_block * keys, key(), row_tile * 16);
    take(sums, [](int row, int column) { return row == column; });
  }

  // score[t, s] += sum over the channels at work of q_t k_s a_{s+1} .. a_t, for the warp's tiles.
  __device__ __forceinline__ void add_scores(Tile<key_width> queries, int key_block) {
#pragma unroll
    for (int i = 0; i < score_tiles; ++i) {
      const int other = i * groups + group;  // the tile of 16 tokens s
      if (other > row_tile) continue;
      if (other == row_tile) {
        add_own_scores(score[i], queries, key_block);
      } else {
        const int l = row_tile / 2 == other / 2 ? 4 : 5;
        add_products<2>(score[i], level(l), 0, level(l), other * 16);
      }
    }
  }

  __device__ __forceinline__ void copy_scores() const {
#pragma unroll
    for (int i = 0; i < score_tiles; ++i) {
      const int other = i * groups + group;
      if (other > row_tile) continue;  // never read
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int row = row_tile * 16 + lane / 4;
        const int column = other * 16 + n * 8 + lane % 4 * 2;
        const float* s = score[i][n].at;
        *reinterpret_cast<std::uint32_t*>(scores().at(row, column)) = packed(s[0], s[1]);
        *reinterpret_cast<std::uint32_t*>(scores().at(row + 8, column)) = packed(s[2], s[3]);
      }
    }
  }

  // out += read S, for the warp's tokens and columns.
  __device__ __forceinline__ void add_read() {
#pragma unroll
    for (int k = 0; k < keys; k += 16) {
      const FragmentA rows = read().as_a(row_tile * 16, k);
#pragma unroll
      for (int n = 0; n < column_tiles; n += 2) {
        FragmentB columns[2];
        state_copy().as_b(k, group * group_columns + n * 8, columns);
        metala::cuda::multiply(out[n], rows, columns[0]);
        metala::cuda::multiply(out[n + 1], rows, columns[1]);
      }
    }
  }

  // out += score v.
  __device__ __forceinline__ void add_values(int buffer) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k > row_tile) continue;
      const FragmentA rows = scores().as_a(row_tile * 16, k * 16);
#pragma unroll
      for (int n = 0; n < column_tiles; n += 2) {
        FragmentB columns[2];
        v(buffer).as_b(k * 16, group * group_columns + n * 8, columns);
        metala::cuda::multiply(out[n], rows, columns[0]);
        metala::cuda::multiply(out[n + 1], rows, columns[1]);
      }
    }
  }

  // S <- decay S + write^T v, for the warp's channels and columns.
  __device__ __forceinline__ void advance(int buffer, int key_block) {
    if (row_tile * 16 >= keys) return;
    const float low = decay[row_tile * 16 + lane / 4];
    const float high = decay[row_tile * 16 + lane / 4 + 8];
#pragma unroll
    for (int n = 0; n < column_tiles; ++n) {
      Sums& s = state[key_block][n];
      s = {{s.at[0] * low, s.at[1] * low, s.at[2] * high, s.at[3] * high}};
    }
#pragma unroll
    for (int k = 0; k < chunk; k += 16) {
      const FragmentA rows = write().transposed_as_a(row_tile * 16, k);
#pragma unroll
      for (int n = 0; n < column_tiles; n += 2) {
        FragmentB columns[2];
        v(buffer).as_b(k, group * group_columns + n * 8, columns);
        metala::cuda::multiply(state[key_block][n], rows, columns[0]);
        metala::cuda::multiply(state[key_block][n + 1], rows, columns[1]);
      }
    }
  }

  __device__ __forceinline__ void store_outputs(std::int64_t done) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::int64_t t = done + row_tile * 16 + lane / 4 + i * 8;
      if (t >= place.tokens) continue;
      Bf16* row = p.o + (place.first + t) * p.o_stride + place.head * value_width + place.column;
#pragma unroll
      for (int n = 0; n < column_tiles; ++n) {
        const int column = group * group_columns + n * 8 + lane % 4 * 2;
        *reinterpret_cast<std::uint32_t*>(row + column) =
            packed(out[n].at[2 * i] * p.scale, out[n].at[2 * i + 1] * p.scale);
      }
    }
  }

  // Calls f(address in [K, D], the pair of sums there) for the warp's part of the state.
  template <class F>
  __device__ __forceinline__ void each_state(F f) {
    if (row_tile * 16 >= keys) return;
#pragma unroll
    for (int b = 0; b < key_blocks; ++b) {
#pragma unroll
      for (int n = 0; n < column_tiles; ++n) {
        const int row = b * keys + row_tile * 16 + lane / 4;
        const int column = place.column + group * group_columns + n * 8 + lane % 4 * 2;
        f(row * value_width + column, state[b][n].at);
        f((row + 8) * value_width + column, state[b][n].at + 2);
      }
    }
  }

  __device__ __forceinline__ void walk() {
#pragma unroll
    for (auto& block : state) {
#pragma unroll
      for (auto& s : block) s = {};
    }
    if constexpr (!totals) {
      const float* from = p.segments > 1 ? p.segment_states + place.state_at(p)
                          : p.before != nullptr
                              ? p.before + place.sequence_head * key_width * value_width
                              : nullptr;
      if (from != nullptr) {
        each_state([&](int at, float* s) {
          const float2 carried = *reinterpret_cast<const float2*>(from + at);
          s[0] = carried.x;
          s[1] = carried.y;
        });
      }
    }
    float segment_decay = 1;  // of channel threadIdx.x, over the whole segment
    const std::int64_t chunks = (place.tokens + chunk - 1) / chunk;
    const auto chunk_at = [&](std::int64_t i) { return backwards ? chunks - 1 - i : i; };
    fetch(0, chunks > 0 ? chunk_at(0) * chunk : place.tokens);
    int buffer = 0;
    for (std::int64_t i = 0; i < chunks; ++i) {
      const std::int64_t done = chunk_at(i) * chunk;
      fetch(buffer ^ 1, i + 1 < chunks ? chunk_at(i + 1) * chunk : place.tokens);
      if constexpr (states) store_state(chunk_at(i));
      metala::cuda::wait_for_copies<1>();
      __syncthreads();
      if constexpr (outputs) {
#pragma unroll
        for (auto& tile : score) tile[0] = tile[1] = {};
#pragma unroll
        for (auto& s : out) s = {};
      }
#pragma unroll
      for (int b = 0; b < key_blocks; ++b) {
        prepare(buffer, b, done);
        if constexpr (outputs) copy_state(b);
        __syncthreads();
        if constexpr (outputs) {
          add_scores(q(buffer), b);
          add_read();
        } else if (totals && place.column == 0) {
          segment_decay = take_decay(segment_decay, b);
        }
        advance(buffer, b);
        if (b + 1 < key_blocks) __syncthreads();
      }
      if constexpr (outputs) {
        copy_scores();
        __syncthreads();
        add_values(buffer);
        store_outputs(done);
      }
      __syncthreads();
      buffer ^= 1;
    }
    metala::cuda::wait_for_copies<0>();
    finish(segment_decay);
  }

  // The state as it is now, for a chunk of the segment.
  __device__ __forceinline__ void store_state(std::int64_t i) {
    const std::int64_t at =
        chunk_place(p.offsets, place.sequence) + place.segment * p.segment_tokens / chunk + i;
    Bf16* to = p.chunk_states + (at * p.heads + place.head) * key_width * value_width;
    each_state([&](int element, const float* s) {
      *reinterpret_cast<std::uint32_t*>(to + element) = packed(s[0], s[1]);
    });
  }

  // A thread keeps the decay of the channel with its own number.
  __device__ __forceinline__ float take_decay(float so_far, int key_block) const {
    const int channel = static_cast<int>(threadIdx.x) - key_block * keys;
    return channel >= 0 && channel < keys ? so_far * decay[channel] : so_far;
  }

  __device__ __forceinline__ void finish(float segment_decay) {
    if constexpr (totals) {
      if (place.column == 0 && static_cast<int>(threadIdx.x) < key_width) {
        const std::int64_t at =
            static_cast<std::int64_t>(place.segment) * p.batch * p.heads + place.sequence_head;
        p.segment_decays[at * key_width + threadIdx.x] = segment_decay;
      }
      float* to = p.segment_states + place.state_at(p);
      each_state([&](int at, const float* s) {
        *reinterpret_cast<float2*>(to + at) = make_float2(s[0], s[1]);
      });
    } else if (p.after != nullptr && (backwards ? place.segment == 0 : place.last)) {
      float* to = p.after + place.sequence_head * key_width * value_width;
      each_state([&](int at, const float* s) {
        float2& there = *reinterpret_cast<float2*>(to + at);
        there = backwards ? make_float2(there.x + s[0], there.y + s[1]) : make_float2(s[0], s[1]);
      });
    }
  }
};

}  // namespace metala::metala_attention::cuda
