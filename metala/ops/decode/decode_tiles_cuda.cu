// Products of 9 to 128 rows with weights that are read once: compute capability 9.0 on.
//
// A cluster of up to four blocks owns a tile of `columns` weight rows; its blocks share out the
// tile's k. One thread of a block has the copy engine bring tiles of 64 k, the weights' before the
// rows that they multiply are there (early_launch.cuh), through two rings in shared memory; one or
// two warpgroups multiply, each 64 rows, which are the instruction's, with the weights as its
// columns. A block then leaves its sums in its own shared memory, and finishes some of the rows by
// adding all blocks' sums of them in the blocks' order: the same bits every time.
#include <algorithm>

#include "metala/device/cuda/bulk_copy.cuh"
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/early_launch.cuh"
#include "metala/device/cuda/tensor_map.h"
#include "metala/device/cuda/warpgroup.cuh"
#include "metala/ops/decode/decode_gate.cuh"
#include "metala/ops/decode/decode_tiles.h"

namespace metala::decode::cuda {
namespace {

using metala::cuda::Bf16;
using metala::cuda::Sums;

constexpr int least_rows = 9;   // fewer stream faster (decode_product_cuda.cu)
constexpr int group_rows = 64;  // of a warpgroup, the instruction's
constexpr int most_rows = 2 * group_rows;
constexpr std::int64_t most_columns = 16384;
constexpr int tile_k = 64;
constexpr int most_stages = 16;
constexpr int most_row_bytes = 48 * 1024;  // of tiles of rows under way
// So that with the largest tiles the next kernel's block still fits beside it.
constexpr int most_ring_bytes = 130 * 1024;
constexpr int most_split = 4;
constexpr int gap = 8;  // floats between rows of sums, against bank conflicts

struct TileProblem {
  int rows, out;
  int tiles_of_k, split;  // blocks of a cluster
  int row_stages, weight_stages;
  float* y;
  std::int64_t y_stride;
  const float* bias;
  Bf16* h;
  std::int64_t h_stride;
  GateArguments gate;
};

// The rows that some warpgroups multiply, a tile's width, with both matrices of a pair, and what
// they take.
template <int groups, int columns_of_one, bool pair>
struct Sizes {
  static constexpr bool paired = pair;
  static constexpr int matrices = paired ? 2 : 1;
  static constexpr int columns = columns_of_one;
  static constexpr int rows = groups * group_rows;
  static constexpr int row_bytes = rows * tile_k * 2;  // of a tile of rows
  static constexpr int width = columns * matrices;
  static constexpr int weight_bytes = width * tile_k * 2;
  static constexpr int sums_stride = width + gap;
  static constexpr int sums_bytes = rows * sums_stride * 4;
  static constexpr int multipliers = groups * 128;
  static constexpr int threads = multipliers + 32;  // a warp brings tiles
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

using metala::cuda::Barrier;

struct Barriers {
  Barrier rows[most_stages], weights[most_stages];  // have come
  Barrier done[most_stages];                        // with tile i, modulo the number of barriers
};

// The block's part of the work.
struct Share {
  int rank;          // in its cluster
  int tile;          // of weight rows
  int first, count;  // tiles of k
  int begin, end;    // rows that it finishes

  __device__ explicit Share(const TileProblem& p) {
    rank = p.split > 1 ? metala::cuda::cluster_rank() : 0;
    tile = static_cast<int>(blockIdx.x) / p.split;
    first = rank * p.tiles_of_k / p.split;
    count = (rank + 1) * p.tiles_of_k / p.split - first;
    const int rows = (p.rows + p.split - 1) / p.split;
    begin = min(rank * rows, p.rows);
    end = min(begin + rows, p.rows);
  }
};

// One thread.
template <class S>
__device__ __forceinline__ void bring_tiles(const CUtensorMap& rows, const CUtensorMap& weights,
                                            const CUtensorMap& more_weights, const TileProblem& p,
                                            const Share& share, unsigned char* row_ring,
                                            unsigned char* weight_ring, Barriers& barriers) {
  const auto bring_weights = [&](int i) {
    const int stage = i % p.weight_stages;
    unsigned char* const to = weight_ring + stage * S::weight_bytes;
    Barrier& come = barriers.weights[stage];
    const int k = (share.first + i) * tile_k;
    come.arrive_and_expect(S::weight_bytes);
    metala::cuda::copy_tile(to, weights, share.tile * S::columns, k, come);
    if constexpr (S::paired) {
      metala::cuda::copy_tile(to + S::weight_bytes / 2, more_weights, share.tile * S::columns, k,
                              come);
    }
  };
  const auto bring_rows = [&](int i) {
    const int stage = i % p.row_stages;
    Barrier& come = barriers.rows[stage];
    come.arrive_and_expect(S::row_bytes);
    metala::cuda::copy_tile(row_ring + stage * S::row_bytes, rows, 0, (share.first + i) * tile_k,
                            come);
  };
#pragma unroll 1
  for (int i = 0; i < min(share.count, p.weight_stages); ++i) bring_weights(i);
  metala::cuda::await_previous();
#pragma unroll 1
  for (int i = 0; i < min(share.count, p.row_stages); ++i) bring_rows(i);
#pragma unroll 1
  for (int i = 0; i + min(p.row_stages, p.weight_stages) < share.count; ++i) {
    barriers.done[i % most_stages].await(i / most_stages % 2);
    if (i + p.row_stages < share.count) bring_rows(i + p.row_stages);
    if (i + p.weight_stages < share.count) bring_weights(i + p.weight_stages);
  }
}

// A warpgroup's sums over the block's tiles of k.
template <class S>
__device__ __forceinline__ void multiply_tiles(const TileProblem& p, int count,
                                               unsigned char* row_ring, unsigned char* weight_ring,
                                               Barriers& barriers,
                                               Sums (&sums)[S::matrices][S::columns / 8]) {
  using Tile = metala::cuda::Tile<tile_k, true>;
  const int group = S::multipliers == 128 ? 0 : static_cast<int>(threadIdx.x) / 128;
  int row_stage = 0, weight_stage = 0;
  int row_phase = 0, weight_phase = 0;
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    barriers.weights[weight_stage].await(weight_phase);
    barriers.rows[row_stage].await(row_phase);
    const Tile a = {reinterpret_cast<Bf16*>(row_ring + row_stage * S::row_bytes) +
                    group * group_rows * tile_k};
    Bf16* const b = reinterpret_cast<Bf16*>(weight_ring + weight_stage * S::weight_bytes);
    metala::cuda::begin_products();
#pragma unroll
    for (int m = 0; m < S::matrices; ++m) {
      metala::cuda::add_product<false, false, tile_k / 16>(sums[m], a,
                                                           Tile{b + m * S::columns * tile_k});
    }
    metala::cuda::end_products<1>();
    if (i > 0 && threadIdx.x % 32 == 0) barriers.done[(i - 1) % most_stages].arrive();
    if (++row_stage == p.row_stages) row_stage = 0, row_phase ^= 1;
    if (++weight_stage == p.weight_stages) weight_stage = 0, weight_phase ^= 1;
  }
  metala::cuda::await_products();
}

// As rows of the tile's width.
template <class S>
__device__ __forceinline__ void store_sums(const Sums (&sums)[S::matrices][S::columns / 8],
                                           float* to) {
  constexpr int stride = S::sums_stride;
  const int thread = static_cast<int>(threadIdx.x);
  float* const row = to + (thread / 32 * 16 + thread % 32 / 4) * stride + thread % 4 * 2;
#pragma unroll
  for (int m = 0; m < S::matrices; ++m) {
#pragma unroll
    for (int j = 0; j < S::columns / 8; ++j) {
      const Sums& s = sums[m][j];
      float* const at = row + m * S::columns + j * 8;
      *reinterpret_cast<float2*>(at) = make_float2(s.at[0], s.at[1]);
      *reinterpret_cast<float2*>(at + 8 * stride) = make_float2(s.at[2], s.at[3]);
    }
  }
}

__device__ __forceinline__ float4 plus(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// Four neighbouring sums of all blocks of the cluster: first they are fetched, then added.
struct Parts {
  float4 of_block[most_split];

  __device__ __forceinline__ void fetch(const float* at, int split) {
#pragma unroll
    for (int i = 0; i < most_split; ++i) {
      if (i < split) of_block[i] = metala::cuda::load_of_block(at, i);
    }
  }
  __device__ __forceinline__ float4 sum(int split) const {
    float4 sum = of_block[0];
#pragma unroll
    for (int i = 1; i < most_split; ++i) {
      if (i < split) sum = plus(sum, of_block[i]);
    }
    return sum;
  }
};

#endif

template <int groups, int columns, Into into, bool paired>
__global__ void __launch_bounds__(Sizes<groups, columns, paired>::threads)
    product_of_tiles(const __grid_constant__ CUtensorMap rows,
                     const __grid_constant__ CUtensorMap weights,
                     const __grid_constant__ CUtensorMap more_weights, TileProblem p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  using S = Sizes<groups, columns, paired>;
  constexpr int multipliers = S::multipliers;
  constexpr int fours = columns / 4;
  // That a thread of four blocks finishes; whose parts it fetches together. Of two warpgroups'
  // gates all at once would take registers that the next kernel's blocks start with.
  constexpr int finished = (S::rows / most_split * fours + multipliers - 1) / multipliers;
  constexpr int together = groups == 2 && paired ? std::min(finished, 2) : finished;
  extern __shared__ unsigned char memory[];
  __shared__ Barriers barriers;
  metala::cuda::let_next_start();
  unsigned char* const weight_ring =
      memory + (1024 - metala::cuda::shared_address(memory) % 1024) % 1024;
  unsigned char* const row_ring = weight_ring + p.weight_stages * S::weight_bytes;
  float* const sums = reinterpret_cast<float*>(weight_ring);
  const int thread = static_cast<int>(threadIdx.x);
  const Share share(p);
  if (thread == 0) {
    metala::cuda::prefetch_map(rows);
    for (int i = 0; i < most_stages; ++i) {
      barriers.rows[i].start(1);
      barriers.weights[i].start(1);
      barriers.done[i].start(multipliers / 32);
    }
    metala::cuda::show_barriers();
  }
  metala::cuda::meet();

  if (__shfl_sync(0xffffffffu, thread / 32, 0) == multipliers / 32) {
    if (thread % 32 == 0) {
      bring_tiles<S>(rows, weights, more_weights, p, share, row_ring, weight_ring, barriers);
    }
    __syncwarp();
    metala::cuda::meet_and_show();  // as the multiplying warps do
    metala::cuda::meet();
    return;
  }

  // Four neighbouring columns of one of the rows to finish.
  struct Place {
    int row, column;
    bool real;
  };
  const auto place = [&](int i) {
    const int row = share.begin + i / fours;
    const int column = share.tile * columns + i % fours * 4;
    return Place{row, column, row < share.end && column < p.out};
  };
  const auto y_at = [&](const Place& at) { return p.y + at.row * p.y_stride + at.column; };

  metala::cuda::await_previous();
  float4 before = {};  // what the thread adds to first
  if (into == Into::add && place(thread).real) before = load_four(y_at(place(thread)));
  {
    Sums held[S::matrices][columns / 8] = {};
    multiply_tiles<S>(p, share.count, row_ring, weight_ring, barriers, held);
    // The sums take the rings' place once all warps have done with them.
    asm volatile("bar.sync 1, %0;" ::"n"(multipliers) : "memory");
    store_sums<S>(held, sums);
  }
  metala::cuda::meet_and_show();
#pragma unroll 1
  for (int first = thread; first < (share.end - share.begin) * fours;
       first += together * multipliers) {
    Parts parts[together][S::matrices];
#pragma unroll
    for (int i = 0; i < together; ++i) {
      const Place at = place(first + i * multipliers);
      if (!at.real) continue;
      const float* const from =
          sums + at.row * S::sums_stride + (first + i * multipliers) % fours * 4;
      parts[i][0].fetch(from, p.split);
      if (paired) parts[i][paired].fetch(from + columns, p.split);
    }
#pragma unroll
    for (int i = 0; i < together; ++i) {
      const Place at = place(first + i * multipliers);
      if (!at.real) continue;
      float4 sum = parts[i][0].sum(p.split);
      if constexpr (into == Into::gate) {
        const float4 other = paired ? parts[i][paired].sum(p.split) : sum;
        store_four(gated(p.gate, at.column, sum, other), p.h + at.row * p.h_stride + at.column);
        continue;
      }
      if constexpr (into == Into::add) {
        if (first != thread || i > 0) before = load_four(y_at(at));
        sum = plus(before, sum);
        if (p.bias != nullptr) {
          sum = plus(sum, *reinterpret_cast<const float4*>(p.bias + at.column));
        }
      }
      *reinterpret_cast<float4*>(y_at(at)) = sum;
    }
  }
  metala::cuda::meet();  // a block's sums stay until all have read them
#endif
}

template <int groups, int columns, Into into, bool paired>
void launch_for(const Tensor& rows, const Tensor& weights, const Tensor& more_weights,
                TileProblem p) {
  using S = Sizes<groups, columns, paired>;
  const Device device = rows.device();
  const int tiles = (p.out + columns - 1) / columns;
  p.tiles_of_k = static_cast<int>((rows.size(1) + tile_k - 1) / tile_k);
  p.split = 1;
  while (p.split * 2 <= std::min(most_split, p.tiles_of_k) &&
         tiles * p.split * 2 <= metala::cuda::multiprocessors(device)) {
    p.split *= 2;
  }
  const int each = (p.tiles_of_k + p.split - 1) / p.split;
  p.row_stages = std::min(each, most_row_bytes / S::row_bytes);
  const int there = static_cast<int>(metala::cuda::shared_memory(device)) - 4096;
  const int left = std::min(there, most_ring_bytes) - p.row_stages * S::row_bytes;
  p.weight_stages = std::min({each, left / S::weight_bytes, most_stages});
  const int rings = p.row_stages * S::row_bytes + p.weight_stages * S::weight_bytes;
  const auto bytes = static_cast<std::size_t>(1024 + std::max(rings, S::sums_bytes));
  metala::cuda::launch_early_in_clusters(
      product_of_tiles<groups, columns, into, paired>, dim3(static_cast<unsigned>(tiles * p.split)),
      static_cast<unsigned>(p.split), S::threads, bytes, metala::cuda::stream(device),
      metala::cuda::map_of_tiles(rows, S::rows), metala::cuda::map_of_tiles(weights, columns),
      metala::cuda::map_of_tiles(paired ? more_weights : weights, columns), p);
}

template <int columns, Into into, bool paired = false>
void launch(const Tensor& rows, const Tensor& weights, const Tensor& more_weights,
            const TileProblem& p) {
  p.rows <= group_rows ? launch_for<1, columns, into, paired>(rows, weights, more_weights, p)
                       : launch_for<2, columns, into, paired>(rows, weights, more_weights, p);
}

// Whether the GPU has what the kernels need, and code for it.
bool has_copy_engine() {
  cudaFuncAttributes code;
  metala::cuda::check(cudaFuncGetAttributes(&code, product_of_tiles<1, 96, Into::write, false>),
                      "decode: a kernel's attributes");
  return code.ptxVersion >= 90;
}

// Of more columns, as a head's, each tile would bring all rows again; larger tiles are better then.
bool suits(const Tensor& rows, const Tensor& to) {
  return rows.size(0) >= least_rows && rows.size(0) <= most_rows && to.size(1) % 8 == 0 &&
         to.stride(0) % 4 == 0 && to.size(1) <= most_columns && has_copy_engine();
}

TileProblem problem(const Tensor& rows, const Tensor& to) {
  TileProblem p = {};
  p.rows = static_cast<int>(rows.size(0));
  p.out = static_cast<int>(to.size(1));
  return p;
}

}  // namespace

bool project_in_tiles(const Tensor& rows, const Tensor& weights, const Tensor& y) {
  if (!suits(rows, y)) return false;
  TileProblem p = problem(rows, y);
  p.y = static_cast<float*>(y.raw());
  p.y_stride = y.stride(0);
  launch<96, Into::write>(rows, weights, {}, p);
  return true;
}

bool project_gated_in_tiles(const Tensor& rows, const Gated& gated, const Tensor& h) {
  if (!suits(rows, h)) return false;
  TileProblem p = problem(rows, h);
  p.h = static_cast<Bf16*>(h.raw());
  p.h_stride = h.stride(0);
  p.gate = arguments(gated);
  if (p.gate.paired) {
    launch<96, Into::gate, true>(rows, gated.weight1, gated.weight2, p);
  } else {
    launch<96, Into::gate>(rows, gated.weight1, {}, p);
  }
  return true;
}

bool project_onto_in_tiles(const Tensor& rows, const Tensor& weight, const Tensor& bias,
                           const Tensor& x) {
  if (!suits(rows, x)) return false;
  TileProblem p = problem(rows, x);
  p.y = static_cast<float*>(x.raw());
  p.y_stride = x.stride(0);
  p.bias = static_cast<const float*>(bias.raw());
  launch<32, Into::add>(rows, weight, {}, p);
  return true;
}

}  // namespace metala::decode::cuda
