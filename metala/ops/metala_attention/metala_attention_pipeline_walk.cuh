// The walkers of the pipeline (metala_attention_pipeline.cuh).
#pragma once

#include "metala/ops/metala_attention/metala_attention_pipeline.cuh"

namespace metala::metala_attention::cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

// A warpgroup with the state's 64 columns. Of the state a warp has 16 channels of each 64, of
// outputs 16 tokens.
template <bool backwards>
struct Walker {
  static constexpr int tiles = Pipeline::part / 8;

  const Problem& p;
  const Place<Pipeline::key_width, Pipeline::value_width>& place;
  const Pipeline memory;
  const int rank;
  const CUtensorMap& values;
  const CUtensorMap& states;  // of p.chunk_states
  const int number = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool first_thread = threadIdx.x % 128 == 0;
  const int column = place.column + number * Pipeline::part;
  const Pipeline::Part copy = memory.state_copy(number);
  Sums state[Pipeline::key_parts][tiles];

  __device__ __forceinline__ void wait() const {
    number == 0 ? synchronize<128, 2>() : synchronize<128, 3>();
  }

  // Calls f(channel of the first of a lane's two rows of sums, column, sums).
  template <class F>
  __device__ __forceinline__ void each_tile(F f) {
#pragma unroll
    for (int c = 0; c < Pipeline::key_parts; ++c) {
#pragma unroll
      for (int n = 0; n < tiles; ++n) {
        f(c * Pipeline::part + warp * 16 + lane / 4, n * 8 + lane % 4 * 2, state[c][n]);
      }
    }
  }

  __device__ __forceinline__ void start_state() {
    each_tile([](int, int, Sums& s) { s = {}; });
    const float* from = p.before;
    if (backwards ? place.segment + 1 < p.segments : place.segment > 0) {
      const std::int64_t piece =
          backwards ? (place.segment + 1) * p.pieces : place.segment * p.pieces - 1;
      from = p.segment_states +
             piece * p.batch * p.heads * Pipeline::key_width * Pipeline::value_width;
    }
    if (from == nullptr) return;
    from += place.sequence_head * Pipeline::key_width * Pipeline::value_width + column;
    each_tile([&](int row, int at, Sums& s) {
      const float* const low = from + row * Pipeline::value_width + at;
      const float2 a = *reinterpret_cast<const float2*>(low);
      const float2 b = *reinterpret_cast<const float2*>(low + 8 * Pipeline::value_width);
      s = {{a.x, a.y, b.x, b.y}};
    });
  }

  // After the walk, if it has come to its sequence's end.
  __device__ __forceinline__ void store_state() {
    if (p.after == nullptr || !(backwards ? place.segment == 0 : place.last)) return;
    float* const to =
        p.after + place.sequence_head * Pipeline::key_width * Pipeline::value_width + column;
    float passed[Pipeline::key_parts][2];
    // Beside this gradient lies nothing that would hide what the first decay was not counted for.
    if constexpr (backwards) {
#pragma unroll
      for (int i = 0; i < 2 * Pipeline::key_parts; ++i) {
        passed[i / 2][i % 2] =
            first_uncounted(p, place.sequence, place.head, Pipeline::key_width,
                            i / 2 * Pipeline::part + warp * 16 + lane / 4 + i % 2 * 8);
      }
    }
    each_tile([&](int row, int at, const Sums& s) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float2& there = *reinterpret_cast<float2*>(to + (row + r * 8) * Pipeline::value_width + at);
        float2 own = make_float2(s.at[2 * r], s.at[2 * r + 1]);
        if constexpr (backwards) {
          const float factor = passed[row / Pipeline::part][r];
          own = fused(make_float2(factor, factor), own, there);
        }
        there = own;
      }
    });
  }

  // Where the lane's first row of the warp's lies in the copy, and the sums of tile n of columns.
  // Rows from there by multiples of eight are swizzled alike.
  __device__ __forceinline__ Bf16* own_place(int n) const {
    return copy.data + (warp * 16 + lane / 4) * Pipeline::part + (n ^ lane / 4) * 8 + lane % 4 * 2;
  }
  static __device__ __forceinline__ void put_sums(Bf16* at, const Sums& s) {
    put(at, make_float2(s.at[0], s.at[1]));
    put(at + 8 * Pipeline::part, make_float2(s.at[2], s.at[3]));
  }
  __device__ __forceinline__ void copy_state() const {
#pragma unroll
    for (int n = 0; n < tiles; ++n) {
#pragma unroll
      for (int c = 0; c < Pipeline::key_parts; ++c) {
        put_sums(own_place(n) + c * Pipeline::part_tile, state[c][n]);
      }
    }
  }

  __device__ __forceinline__ void decay_state(const float* decay) {
#pragma unroll
    for (int c = 0; c < Pipeline::key_parts; ++c) {
      const float* const own = decay + c * Pipeline::part + warp * 16 + lane / 4;
      const float low = own[0];
      const float high = own[8];
#pragma unroll
      for (Sums& s : state[c]) {
        s = {{s.at[0] * low, s.at[1] * low, s.at[2] * high, s.at[3] * high}};
      }
    }
  }

  // Where the lane's first row of outputs of the walk's first chunk begins; a warp stores rows of
  // 16 bytes, by way of its own rows of the state's copy.
  static constexpr int lanes = Pipeline::part / 8;  // to a row
  static constexpr int rows_at_once = 32 / lanes;
  __device__ __forceinline__ Bf16* first_output() const {
    const std::int64_t token = place.first + warp * 16 + lane / lanes;
    return p.o + token * p.o_stride + place.head * Pipeline::value_width + column +
           lane % lanes * 8;
  }
  struct Outputs {
    uint4 rows[16 / rows_at_once];
  };
  __device__ __forceinline__ void turn_outputs(const Sums (&out)[tiles], Outputs& to) const {
#pragma unroll
    for (int n = 0; n < tiles; ++n) put_sums(own_place(n), out[n]);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16; i += rows_at_once) {
      const int t = warp * 16 + i + lane / lanes;
      to.rows[i / rows_at_once] = *reinterpret_cast<const uint4*>(copy.at(t, lane % lanes * 8));
    }
    __syncwarp();
  }
  __device__ __forceinline__ void store_outputs(const Outputs& outputs, Bf16* to, int real) const {
#pragma unroll
    for (int i = 0; i < 16; i += rows_at_once) {
      if (warp * 16 + i + lane / lanes < real) {
        *reinterpret_cast<uint4*>(to) = outputs.rows[i / rows_at_once];
      }
      to += rows_at_once * p.o_stride;
    }
  }

  // Rows of another sequence.
  __device__ __forceinline__ void clear_values(Pipeline::Part values, int real) const {
    for (int i = real * Pipeline::part + static_cast<int>(threadIdx.x) % 128 * 8;
         i < Pipeline::part_tile; i += 128 * 8) {
      *reinterpret_cast<uint4*>(values.data + i) = make_uint4(0, 0, 0, 0);
    }
  }

  // The values of a chunk, and what has to come with them. By one thread.
  __device__ __forceinline__ void bring(const Chunks& chunks, int i) const {
    if (i >= chunks.count) return;
    const int stage = i % Pipeline::stages;
    metala::cuda::Barrier& come = memory.barriers().come[stage];
    const auto token = [&](int j) { return static_cast<int>(place.first + chunks.first(j)); };
    const int at = place.head * Pipeline::value_width + column;
    const bool with_rows = number == 0 && i % Pipeline::blocks != rank;
    come.arrive_and_expect(
        Pipeline::value_bytes +
        (with_rows ? Pipeline::tile_bytes<backwards> + Pipeline::decay_bytes : 0));
    metala::cuda::copy_tile(memory.values(stage, number).data, values, token(i), at, come);
    if (i + 1 < chunks.count) metala::cuda::prefetch_tile(values, token(i + 1), at);
  }

  // A chunk's rows, when they are there and the other block has used those before. By one thread.
  __device__ __forceinline__ void send(const Chunks& chunks, int i) const {
    if (i >= chunks.count) return;
    Pipeline::Barriers& barriers = memory.barriers();
    const int sent = i / Pipeline::blocks;
    barriers.prepared[Pipeline::own_place(i)].await(Pipeline::own_round(i) % 2);
    if (sent > 0) barriers.copy_used.await_cluster((sent - 1) % 2);
    const Pipeline::Rows from = memory.rows(i, rank);
    const Pipeline::Rows to = memory.rows(i, 1 - rank);
    metala::cuda::Barrier& come = barriers.come[i % Pipeline::stages];
    metala::cuda::send_to_block(to.tiles, from.tiles, Pipeline::tile_bytes<backwards>, come,
                                1 - rank);
    metala::cuda::send_to_block(to.decay, from.decay, Pipeline::decay_bytes, come, 1 - rank);
  }

  __device__ __forceinline__ void run() {
    using metala::cuda::add_product;
    constexpr int part_steps = Pipeline::part / 16;
    Pipeline::Barriers& barriers = memory.barriers();
    const Chunks chunks(place.tokens, backwards);
    const int first_place = static_cast<int>(chunk_place(p.offsets, place.sequence) +
                                             place.segment * p.segment_tokens / chunk);
    Bf16* output = backwards ? nullptr : first_output();
    for (int i = 0; first_thread && i < Pipeline::stages; ++i) bring(chunks, i);
    if (first_thread && number == 1 && rank == 0) send(chunks, 0);
    start_state();
#pragma unroll 1
    for (int i = 0; i < chunks.count; ++i) {
      const int stage = i % Pipeline::stages;
      const bool own = i % Pipeline::blocks == rank;
      const int real = chunks.real(i);
      const Pipeline::Rows rows = memory.rows(i, rank);
      const Pipeline::Part own_values = memory.values(stage, number);
      copy_state();
      barriers.come[stage].await(i / Pipeline::stages % 2);
      if (own) barriers.prepared[Pipeline::own_place(i)].await(Pipeline::own_round(i) % 2);
      if (real < chunk) clear_values(own_values, real);
      metala::cuda::show_to_products();
      wait();
      Sums out[tiles] = {};
      if constexpr (!backwards) {
        metala::cuda::begin_products();
#pragma unroll
        for (int c = 0; c < Pipeline::key_parts; ++c) {
          const Pipeline::Part part = {copy.data + c * Pipeline::part_tile};
          add_product<false, true, part_steps>(out, rows.read(c), part);
        }
        add_product<false, true, chunk / 16>(out, rows.scores(), own_values);
        metala::cuda::end_products<1>();
      }
      if (first_thread) {
        if (i > 0) bring(chunks, i + 1);  // the stage of the chunk before is free
        if (number == 0 && !own) barriers.used[Pipeline::own_place(i)].arrive_in_block(1 - rank);
        if (number == 1 && !own) send(chunks, i + 1);
        if (p.chunk_states != nullptr) {
          const int at =
              ((first_place + chunks.at(i)) * p.heads + place.head) * Pipeline::key_width;
          metala::cuda::store_tile(copy.data, states, at, column);
        }
      }
      decay_state(rows.decay);
      metala::cuda::begin_products();
#pragma unroll
      for (int c = 0; c < Pipeline::key_parts; ++c) {
        add_product<true, true, chunk / 16>(state[c], rows.write(c), own_values);
      }
      metala::cuda::end_products<1>();
      // What read the state's copy has done so, in all warps.
      if (p.chunk_states != nullptr && first_thread) metala::cuda::await_reading_stores();
      wait();
      Outputs outputs;
      if constexpr (!backwards) {
        metala::cuda::settle(out);
        turn_outputs(out, outputs);
      }
      metala::cuda::await_products();
#pragma unroll
      for (auto& part : state) metala::cuda::settle(part);
      if (lane == 0) {
        if (own) {
          barriers.used[Pipeline::own_place(i)].arrive();
        } else {
          barriers.copy_used.arrive_in_block(1 - rank);
        }
      }
      if constexpr (!backwards) {
        store_outputs(outputs, output, real);
        output += chunk * p.o_stride;
      }
    }
    store_state();
  }
};

#endif

}  // namespace metala::metala_attention::cuda
