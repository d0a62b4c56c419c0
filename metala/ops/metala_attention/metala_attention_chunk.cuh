// What a block does with its head, segment by chunk by chunk (metala_attention_chunk_cuda.cu
// launches it). README.md, "On NVIDIA GPUs", derives how decays become factors of keys and queries.
#pragma once

#include "metala/ops/metala_attention/metala_attention_place.cuh"
#include "metala/ops/metala_attention/metala_attention_rows.cuh"

namespace metala::metala_attention::cuda {

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

template <int key_width, int value_width, Pass pass>
struct Kernel {
  static constexpr bool outputs = pass == Pass::outputs;
  static constexpr bool totals = pass == Pass::totals || pass == Pass::totals_back;
  static constexpr bool states = pass == Pass::states || pass == Pass::states_back;
  static constexpr bool backwards = pass == Pass::totals_back || pass == Pass::states_back;
  static constexpr bool queries = outputs || backwards;
  static constexpr int slice = value_width < 128 ? value_width : 128;  // columns of a block
  using Rows = ChunkRows<key_width>;
  static constexpr int threads = Rows::threads;
  // On a multiprocessor.
  static constexpr int blocks_at_once = key_width > 64 ? 1 : queries ? 2 : 3;
  // Warps: four tiles of 16 tokens (or channels) by some groups of columns.
  static constexpr int groups = threads / 128;
  static constexpr int group_columns = slice / groups;
  static constexpr int column_tiles = group_columns / 8;                     // of a warp
  static constexpr int channel_tiles = key_width < 64 ? 1 : key_width / 64;  // of a warp

  // Shared memory, in bf16: inputs twice, then the tiles of the chunk at work.
  static constexpr int key_tile = Tile<key_width>::bytes(chunk) / 2;
  static constexpr int value_tile = Tile<slice>::bytes(chunk) / 2;
  static constexpr int inputs = (queries ? 2 : 1) * key_tile + value_tile;
  static constexpr int state_rows = key_width < chunk ? chunk : key_width;  // or outputs' rows
  static constexpr int state_tile = outputs || states ? Tile<slice>::bytes(state_rows) / 2 : 0;
  static constexpr int score_tile = outputs ? Tile<chunk>::bytes(chunk) / 2 : 0;
  static constexpr int factor_table = outputs ? Rows::factor_rows * key_width : 0;
  static constexpr int elements = 2 * inputs + key_tile + state_tile + score_tile + factor_table;
  static constexpr std::size_t bytes = 2 * elements + 4 * (run_count + 1) * key_width;

  const Problem& p;
  const Place<key_width, value_width> place;
  Bf16* const memory;
  const Rows rows;
  float* const decay;  // [K]: of the chunk's
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row_tile = static_cast<int>(threadIdx.x) / 32 % 4;  // of tokens, and of channels
  const int group = static_cast<int>(threadIdx.x) / 128;        // of the slice's columns
  Sums state[channel_tiles][column_tiles];
  Sums out[column_tiles];

  __device__ __forceinline__ Kernel(const Problem& problem, Bf16* shared, int segment)
      : p(problem),
        place(problem, slice, segment,
              totals ? problem.segment_tokens / problem.pieces : problem.segment_tokens),
        memory(shared),
        rows{.totals = reinterpret_cast<float*>(shared + elements)},
        decay(rows.totals + run_count * key_width) {}

  // Input tiles of buffer 0 or 1. Of outputs, u becomes the keys and q the queries, both decayed
  // from or to the middle of their block.
  __device__ __forceinline__ Tile<key_width> u(int b) const { return {memory + b * inputs}; }
  __device__ __forceinline__ Tile<slice> v(int b) const { return {memory + b * inputs + key_tile}; }
  __device__ __forceinline__ Tile<key_width> q(int b) const {
    return {memory + b * inputs + key_tile + value_tile};
  }
  __device__ __forceinline__ Tile<key_width> write() const { return {memory + 2 * inputs}; }
  // The state before the chunk, rounded; later the chunk's outputs.
  __device__ __forceinline__ Tile<slice> state_copy() const { return {write().data + key_tile}; }
  __device__ __forceinline__ Tile<chunk> scores() const {
    return {write().data + key_tile + state_tile};
  }
  // Of each_factor.
  __device__ __forceinline__ Bf16* factors() const { return scores().data + score_tile; }

  // A thread copies 16 bytes of every so many-th row of an input. Where its first row of the next
  // chunk to fetch lies:
  template <int columns>
  struct Source {
    static constexpr int packs = columns / 8;
    static constexpr int rows_at_once = threads / packs;
    const Bf16* row;
    std::int64_t stride;

    __device__ __forceinline__ void start(const Bf16* first, std::int64_t rows_stride, int column) {
      stride = rows_stride;
      row = first + own_row() * stride + column + own_column();
    }
    static __device__ __forceinline__ int own_row() {
      return static_cast<int>(threadIdx.x) / packs;
    }
    static __device__ __forceinline__ int own_column() {
      return static_cast<int>(threadIdx.x) % packs * 8;
    }
    // Zeros beyond `real` rows.
    __device__ __forceinline__ void fetch(Tile<columns> to, int real) {
      Bf16* const own = to.at(own_row(), own_column());
      const Bf16* from = row;
      if (real == chunk) {
#pragma unroll
        for (int t = 0; t < chunk; t += rows_at_once) {
          metala::cuda::copy_async(own + t * Tile<columns>::stride, from, true);
          from += rows_at_once * stride;
        }
      } else {
        for (int t = 0; t < chunk; t += rows_at_once) {
          const bool exists = own_row() + t < real;
          metala::cuda::copy_async(own + t * Tile<columns>::stride, exists ? from : row, exists);
          from += rows_at_once * stride;
        }
      }
      row += (backwards ? -chunk : chunk) * stride;
    }
  };
  Source<key_width> next_u, next_q;
  Source<slice> next_v;

  __device__ __forceinline__ int tokens_from(std::int64_t done) const {
    const std::int64_t left = place.tokens - done;
    return static_cast<int>(left < chunk ? left : chunk);
  }

  __device__ __forceinline__ void start_fetching(std::int64_t done) {
    const std::int64_t token = place.first + done;
    next_u.start(p.u + token * p.u_stride, p.u_stride, place.head * key_width);
    next_v.start(p.v + token * p.v_stride, p.v_stride, place.head * value_width + place.column);
    if constexpr (queries) {
      next_q.start(p.q + token * p.q_stride, p.q_stride, place.head * key_width);
    }
  }

  __device__ __forceinline__ void fetch(int buffer, int real) {
    next_u.fetch(u(buffer), real);
    next_v.fetch(v(buffer), real);
    if constexpr (queries) next_q.fetch(q(buffer), real);
    metala::cuda::commit_copies();
  }

  // Keys and queries from gates; `own` becomes the thread's rows of the state's update, decayed
  // from or to the middle of their block.
  __device__ __forceinline__ void prepare(int buffer, int real, Run& own) const {
    rows.open_beyond(real, u(buffer));
    // All loads before the first store, so that tokens do not wait for one another.
    Run logits, queries_of_run = {};
    rows.load(u(buffer), logits);
    if constexpr (queries) rows.load(q(buffer), queries_of_run);
    rows.decay(logits, queries_of_run, p.inverse_temperature, [&](int j, float2 key, float2 query) {
      own[j] = backwards ? query : key;
      if constexpr (outputs) {
        put(u(buffer).at(rows.token(j), rows.channel), key);
        put(q(buffer).at(rows.token(j), rows.channel), query);
      }
    });
  }

  // What the runs' totals are needed for: the rows that the state takes in, and factors.
  __device__ __forceinline__ void finish_rows(const Run& own) const {
    const auto bits = rows.bits();
    const float2 factor = backwards ? times(p.scale, power(times(-1, bits.here)))
                                    : power(difference(bits.here, bits.end));
#pragma unroll
    for (int j = 0; j < run_tokens; ++j) {
      put(write().at(rows.token(j), rows.channel), product(own[j], factor));
    }
    if (rows.own_run == 0) {
      *reinterpret_cast<float2*>(decay + rows.channel) = power(times(-1, bits.end));
    }
    if constexpr (outputs) {
      rows.each_factor(bits, p.scale, [&](int row, float2 value) {
        put(factors() + row * key_width + rows.channel, value);
      });
    }
  }

  // The state before the chunk, rounded, as an operand.
  __device__ __forceinline__ void copy_state() {
    each_tile([&](int row, int column, const Sums& s) {
      put(state_copy().at(row, column), make_float2(s.at[0], s.at[1]));
      put(state_copy().at(row + 8, column), make_float2(s.at[2], s.at[3]));
    });
  }

  // out += read S, for the warp's tokens and columns.
  __device__ __forceinline__ void add_read(const Queries<key_width>& query) {
    const Bf16* const factor = factors() + Rows::factor_row(row_tile, 0) * key_width;
#pragma unroll
    for (int k = 0; k < query.steps; ++k) {
      const FragmentA read = query.scaled(factor, k);
#pragma unroll
      for (int n = 0; n < column_tiles; n += 2) {
        FragmentB columns[2];
        state_copy().as_b(k * 16, group * group_columns + n * 8, columns);
        metala::cuda::multiply(out[n], read, columns[0]);
        metala::cuda::multiply(out[n + 1], read, columns[1]);
      }
    }
  }

  // S <- decay S + write^T v for the warp's channels, out += score v for its tokens; both for its
  // columns.
  __device__ __forceinline__ void take_values(int buffer) {
    const bool has_state = row_tile * 16 < key_width;
    if (has_state) {
#pragma unroll
      for (int c = 0; c < channel_tiles; ++c) {
        const float low = decay[(c * 4 + row_tile) * 16 + lane / 4];
        const float high = decay[(c * 4 + row_tile) * 16 + lane / 4 + 8];
#pragma unroll
        for (Sums& s : state[c]) {
          s = {{s.at[0] * low, s.at[1] * low, s.at[2] * high, s.at[3] * high}};
        }
      }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      FragmentB columns[column_tiles];
#pragma unroll
      for (int n = 0; n < column_tiles; n += 2) {
        v(buffer).as_b(k * 16, group * group_columns + n * 8, columns + n);
      }
      if (has_state) {
#pragma unroll
        for (int c = 0; c < channel_tiles; ++c) {
          const FragmentA rows = write().transposed_as_a((c * 4 + row_tile) * 16, k * 16);
#pragma unroll
          for (int n = 0; n < column_tiles; ++n) {
            metala::cuda::multiply(state[c][n], rows, columns[n]);
          }
        }
      }
      if constexpr (outputs) {
        if (k > row_tile) continue;
        const FragmentA rows = scores().as_a(row_tile * 16, k * 16);
#pragma unroll
        for (int n = 0; n < column_tiles; ++n) {
          metala::cuda::multiply(out[n], rows, columns[n]);
        }
      }
    }
  }

  // By way of the warp's part of the state's copy, so that rows are written in 16 bytes.
  __device__ __forceinline__ void store_outputs(std::int64_t done, int real) const {
    const int from = group * group_columns;
#pragma unroll
    for (int n = 0; n < column_tiles; ++n) {
      const float* s = out[n].at;
      Bf16* const at = state_copy().at(row_tile * 16 + lane / 4, from + n * 8 + lane % 4 * 2);
      put(at, make_float2(s[0], s[1]));
      put(at + 8 * Tile<slice>::stride, make_float2(s[2], s[3]));
    }
    __syncwarp();
    constexpr int lanes = group_columns / 8;  // to a row
    Bf16* const to = p.o + (place.first + done) * p.o_stride + place.head * value_width +
                     place.column + from + lane % lanes * 8;
#pragma unroll
    for (int i = 0; i < 16; i += 32 / lanes) {
      const int t = row_tile * 16 + i + lane / lanes;
      if (t < real) {
        *reinterpret_cast<uint4*>(to + t * p.o_stride) =
            *reinterpret_cast<const uint4*>(state_copy().at(t, from + lane % lanes * 8));
      }
    }
  }

  // Calls f(row, column of the slice, sums) for the warp's tiles of the state.
  template <class F>
  __device__ __forceinline__ void each_tile(F f) {
    if (row_tile * 16 >= key_width) return;
#pragma unroll
    for (int c = 0; c < channel_tiles; ++c) {
#pragma unroll
      for (int n = 0; n < column_tiles; ++n) {
        f((c * 4 + row_tile) * 16 + lane / 4, group * group_columns + n * 8 + lane % 4 * 2,
          state[c][n]);
      }
    }
  }

  // Calls f(address in [K, D], the pair of sums there) for the warp's part of the state.
  template <class F>
  __device__ __forceinline__ void each_state(F f) {
    each_tile([&](int row, int column, Sums& s) {
      f(row * value_width + place.column + column, s.at);
      f((row + 8) * value_width + place.column + column, s.at + 2);
    });
  }

  // At the end of the segment before, or before the sequence; backwards from the other end.
  __device__ __forceinline__ void start_state() {
    const float* from = p.before;
    if (backwards ? place.segment + 1 < p.segments : place.segment > 0) {
      const std::int64_t piece =
          backwards ? (place.segment + 1) * p.pieces : place.segment * p.pieces - 1;
      from = p.segment_states + piece * p.batch * p.heads * key_width * value_width;
    }
    if (from == nullptr) return;
    from += place.sequence_head * key_width * value_width;
    each_state([&](int at, float* s) {
      const float2 carried = *reinterpret_cast<const float2*>(from + at);
      s[0] = carried.x;
      s[1] = carried.y;
    });
  }

  __device__ __forceinline__ void walk() {
#pragma unroll
    for (auto& block : state) {
#pragma unroll
      for (auto& s : block) s = {};
    }
    if constexpr (!totals) start_state();
    float segment_decay = 1;  // of channel threadIdx.x, over the whole segment
    const std::int64_t chunks = (place.tokens + chunk - 1) / chunk;
    const auto chunk_at = [&](std::int64_t i) { return backwards ? chunks - 1 - i : i; };
    if (chunks > 0) {
      start_fetching(chunk_at(0) * chunk);
      fetch(0, tokens_from(chunk_at(0) * chunk));
    }
    int buffer = 0;
    for (std::int64_t i = 0; i < chunks; ++i) {
      const std::int64_t done = chunk_at(i) * chunk;
      const int real = tokens_from(done);
      metala::cuda::wait_for_copies<0>();
      __syncthreads();
      if (i + 1 < chunks) fetch(buffer ^ 1, tokens_from(chunk_at(i + 1) * chunk));
      Run own;
      prepare(buffer, real, own);
      __syncthreads();
      finish_rows(own);
      if constexpr (outputs || states) copy_state();
      __syncthreads();
      if constexpr (outputs) {
        Queries<key_width> query;
        query.load(q(buffer), row_tile * 16);
        query.find_scores(u(buffer), scores(), factors(), p.scale, row_tile, group, groups,
                          [](int, int, float score) { return score; });
#pragma unroll
        for (auto& s : out) s = {};
        add_read(query);
        if (p.chunk_states != nullptr) store_state(chunk_at(i));
        __syncthreads();
      } else if (totals && place.column == 0) {
        if (threadIdx.x < key_width) segment_decay *= decay[threadIdx.x];
      }
      if constexpr (states) store_state(chunk_at(i));
      take_values(buffer);
      if constexpr (outputs) store_outputs(done, real);
      buffer ^= 1;
    }
    metala::cuda::wait_for_copies<0>();
    finish(segment_decay);
  }

  // The copy of the state, for a chunk of the segment.
  __device__ __forceinline__ void store_state(std::int64_t i) const {
    constexpr int packs = slice / 8;
    const std::int64_t at =
        chunk_place(p.offsets, place.sequence) + place.segment * p.segment_tokens / chunk + i;
    Bf16* const to =
        p.chunk_states + (at * p.heads + place.head) * key_width * value_width + place.column;
    const int row = static_cast<int>(threadIdx.x) / packs;
    const int column = static_cast<int>(threadIdx.x) % packs * 8;
#pragma unroll
    for (int k = 0; k < key_width; k += threads / packs) {
      *reinterpret_cast<uint4*>(to + (k + row) * value_width + column) =
          *reinterpret_cast<const uint4*>(state_copy().at(k + row, column));
    }
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
      if constexpr (backwards) {
        // Beside this gradient lies nothing that would hide what the first decay was not counted
        // for.
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < key_width) {
          decay[threadIdx.x] = first_uncounted(p, place.sequence, place.head, key_width,
                                               static_cast<int>(threadIdx.x));
        }
        __syncthreads();
      }
      each_state([&](int at, const float* s) {
        float2& there = *reinterpret_cast<float2*>(to + at);
        if constexpr (backwards) {
          const float passed = decay[at / value_width];
          there = make_float2(fmaf(passed, s[0], there.x), fmaf(passed, s[1], there.y));
        } else {
          there = make_float2(s[0], s[1]);
        }
      });
    }
  }
};

}  // namespace metala::metala_attention::cuda
