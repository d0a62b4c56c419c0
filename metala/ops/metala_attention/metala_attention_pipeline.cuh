// A walk over chunks with rows made once, for K 128, D 256 on compute capability 9.0: README.md,
// "In a pipeline" (metala_attention_pipeline_cuda.cu launches it).
//
// A head's two halves of columns are two blocks of a cluster. In each, two warpgroups prepare every
// second chunk's rows for both; two walkers, warpgroups as well, carry the state, each for a
// quarter of the columns. What passes between blocks is copied in the background; barriers in
// shared memory count what has come and what may be overwritten.
#pragma once

#include "metala/device/cuda/bulk_copy.cuh"
#include "metala/device/cuda/warpgroup.cuh"
#include "metala/ops/metala_attention/metala_attention_place.cuh"

namespace metala::metala_attention::cuda {

struct Pipeline {
  static constexpr int key_width = 128;
  static constexpr int value_width = 256;
  static constexpr int blocks = 2;  // of a head, the cluster
  static constexpr int slice = value_width / blocks;
  static constexpr int part = 64;  // columns of a walker, channels of a tile of rows
  static constexpr int key_parts = key_width / part;
  // Threads: walkers, then preparers.
  static constexpr int walkers = slice / part;
  static constexpr int walking = 128 * walkers;
  static constexpr int preparing = 256;
  static constexpr int threads = walking + preparing;
  // Rows in memory at once: two chunks of the block's own, one of the other's. Values: two chunks'.
  static constexpr int own_rows = 2;
  static constexpr int stages = 2;

  using Part = Tile<part, true>;
  static constexpr int part_tile = Part::bytes(chunk) / 2;
  static constexpr int key_tile = Tile<key_width>::bytes(chunk) / 2;
  static constexpr int score_rows = ChunkRows<key_width>::factor_rows;

  // What walkers need of a chunk: rows decayed from its start, unless backwards, and to its end,
  // the scores; of each channel what the chunk keeps of it.
  struct Rows {
    Bf16* tiles;
    float* decay;
    static constexpr int size = (2 * key_parts + 1) * part_tile;
    __device__ __forceinline__ Part write(int i) const { return {tiles + i * part_tile}; }
    __device__ __forceinline__ Tile<chunk, true> scores() const {
      return {tiles + key_parts * part_tile};
    }
    __device__ __forceinline__ Part read(int i) const {
      return {tiles + (key_parts + 1 + i) * part_tile};
    }
  };
  static_assert(chunk == part);
  template <bool backwards>
  static constexpr int tile_bytes = 2 * (backwards ? key_parts * part_tile : Rows::size);
  static constexpr int decay_bytes = 4 * key_width;
  static constexpr int value_bytes = 2 * part_tile;

  // Shared memory, in bf16; then in bytes.
  static constexpr int state_tile = key_parts * part_tile;
  static constexpr int all_values = stages * walkers * part_tile;
  static constexpr int all_rows = (own_rows + 1) * Rows::size;
  static constexpr int elements =
      all_values + all_rows + walkers * state_tile + 2 * key_tile + score_rows * key_width;
  static constexpr int floats = (own_rows + 1 + run_count) * key_width;
  static constexpr std::size_t barrier_bytes = sizeof(std::uint64_t) * (stages + 2 * own_rows + 1);
  static constexpr std::size_t bytes = 2 * elements + 4 * floats + barrier_bytes;

  Bf16* memory;

  __device__ __forceinline__ float* numbers() const {
    return reinterpret_cast<float*>(memory + elements);
  }
  __device__ __forceinline__ Part values(int stage, int walker) const {
    return {memory + (stage * walkers + walker) * part_tile};
  }
  // Of chunk i of the walk.
  __device__ __forceinline__ Rows rows(int i, int rank) const {
    const int place = i % blocks == rank ? own_place(i) : own_rows;
    return {memory + all_values + place * Rows::size, numbers() + place * key_width};
  }
  // Of block i % blocks: where that has the rows, and how often it has had others there.
  static __device__ __forceinline__ int own_place(int i) { return i / blocks % own_rows; }
  static __device__ __forceinline__ int own_round(int i) { return i / blocks / own_rows; }
  // A walker's columns of the state before the chunk, rounded; then its outputs.
  __device__ __forceinline__ Part state_copy(int walker) const {
    return {memory + all_values + all_rows + walker * state_tile};
  }
  // Decayed from or to the middle of their block.
  __device__ __forceinline__ Tile<key_width> queries() const { return {state_copy(walkers).data}; }
  __device__ __forceinline__ Tile<key_width> keys() const { return {queries().data + key_tile}; }
  __device__ __forceinline__ Bf16* factors() const { return keys().data + key_tile; }
  __device__ __forceinline__ float* totals() const {
    return numbers() + (own_rows + 1) * key_width;
  }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  struct Barriers {
    // A chunk's values have come, and its rows if they are the other block's.
    metala::cuda::Barrier come[stages];
    // Own rows are there; and may be overwritten, since the other block has its copy and walkers
    // have used them.
    metala::cuda::Barrier prepared[own_rows];
    metala::cuda::Barrier used[own_rows];
    // The other block's walkers have used what they were sent.
    metala::cuda::Barrier copy_used;
  };
  static_assert(sizeof(Barriers) == barrier_bytes);
  __device__ __forceinline__ Barriers& barriers() const {
    return *reinterpret_cast<Barriers*>(numbers() + floats);
  }
#endif
};

// A chunk's place in the order of a walk.
struct Chunks {
  std::int64_t tokens;
  int count;
  bool backwards;

  __device__ __forceinline__ Chunks(std::int64_t all, bool back)
      : tokens(all), count(static_cast<int>((all + chunk - 1) / chunk)), backwards(back) {}
  __device__ __forceinline__ int at(int i) const { return backwards ? count - 1 - i : i; }
  __device__ __forceinline__ std::int64_t first(int i) const {
    return static_cast<std::int64_t>(at(i)) * chunk;
  }
  __device__ __forceinline__ int real(int i) const {
    const std::int64_t left = tokens - first(i);
    return static_cast<int>(left < chunk ? left : chunk);
  }
};

// x, such that what is made of it in a loop is not made ahead of the loop, to be held in registers.
__device__ __forceinline__ int afresh(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Of some of a block's warps.
template <int threads, int barrier>
__device__ __forceinline__ void synchronize() {
  asm volatile("bar.sync %0, %1;" ::"n"(barrier), "n"(threads) : "memory");
}

}  // namespace metala::metala_attention::cuda
