// Products of up to 16 rows with weights that are read once, as fast as memory gives them; of more
// rows in tiles (decode_tiles.h) or by cuBLASLt.
//
// A block owns some tiles of eight weight rows; its eight warps share out a tile's columns in
// blocks of 32 and multiply on tensor cores. Weights pass through a ring in shared memory that is
// filled before the rows that they multiply are there (early_launch.cuh), so memory stays busy from
// one product to the next. Every lane copies what it will multiply itself: the ring needs no
// barriers.
//
// Within a block of 32 columns a product may take them in any order if rows and weights agree; the
// order is such that a lane's two instructions need 16 neighbouring bytes of either.
#include <algorithm>

#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/early_launch.cuh"
#include "metala/device/cuda/matrix_product_cuda.h"
#include "metala/device/cuda/mma.cuh"
#include "metala/ops/decode/decode_gate.cuh"
#include "metala/ops/decode/decode_rows.cuh"
#include "metala/ops/decode/decode_tiles.h"

namespace metala::decode::cuda {
namespace {

using metala::cuda::Bf16;
using metala::cuda::FragmentA;
using metala::cuda::FragmentB;
using metala::cuda::Sums;

constexpr int warps = 8;
constexpr int threads = 32 * warps;
static_assert(threads == row_threads);
constexpr int most_rows = 16;      // the instruction's
constexpr int tile_rows = 8;       // of weights, the instruction's columns
constexpr int block_width = 32;    // columns that a warp takes at once
constexpr int blocks_of_unit = 4;  // blocks that a warp fetches together
constexpr int unit_width = block_width * warps * blocks_of_unit;
constexpr int most_matrices = 5;
constexpr int most_tiles_at_once = 4;  // whose sums are finished together

// Up to five matrices of as many columns, one above the other; or a pair side by side, whose tiles
// are taken together.
struct Matrices {
  const Bf16* at[most_matrices];
  int end[most_matrices];  // rows, up to and with this one
  int count;
};

struct Problem {
  Matrices weights;
  int in, out;  // out: of one of a pair
  int rows;
  int tiles, tiles_of_block, tiles_at_once, ring_units;
  // Rows ready, or made on the way.
  const Bf16* ready;
  std::int64_t ready_stride;
  const float* x;
  NormArguments norm;
  ConvArguments conv;
  float* normed;
  // Where products go.
  float* y;
  std::int64_t y_stride;
  Bf16* h;
  std::int64_t h_stride;
  GateArguments gate;
  const float* bias;
};

// Of a unit of the ring; a pair's blocks lie next to each other.
template <bool paired>
constexpr int unit_bytes = blocks_of_unit*(paired ? 2 : 1) * threads * 16;

// Until all but the latest `units` - 1 of the ring are there.
__device__ __forceinline__ void wait_for_unit(int units) {
  if (units == 4) return metala::cuda::wait_for_copies<3>();
  if (units == 3) return metala::cuda::wait_for_copies<2>();
  if (units == 2) return metala::cuda::wait_for_copies<1>();
  metala::cuda::wait_for_copies<0>();
}

// The row of weights that the lane copies from in a tile, of matrix i of a pair.
template <bool paired>
__device__ __forceinline__ const Bf16* weight_row(const Problem& p, int tile, int i) {
  const int row = min(tile * tile_rows + static_cast<int>(threadIdx.x) % 32 / 4, p.out - 1);
  if constexpr (paired) return p.weights.at[i] + static_cast<std::int64_t>(row) * p.in;
  int matrix = 0;
  int start = 0;
#pragma unroll 1
  while (row >= p.weights.end[matrix]) start = p.weights.end[matrix++];
  return p.weights.at[matrix] + static_cast<std::int64_t>(row - start) * p.in;
}

// The warp's walk over its share of the weights, a unit after the other.
template <bool paired>
struct Walk {
  static constexpr int matrices = paired ? 2 : 1;
  const Bf16* row[matrices];
  int tile, column;  // of the unit to fetch next

  __device__ Walk(const Problem& p, int first_tile) : tile(first_tile), column(0) { find(p); }
  __device__ __forceinline__ void find(const Problem& p) {
#pragma unroll
    for (int i = 0; i < matrices; ++i) row[i] = weight_row<paired>(p, tile, i);
  }
  // Starts the copy of the next unit, if there is one, into a place of the ring; zeros beyond the
  // columns that there are.
  __device__ __forceinline__ void fetch(const Problem& p, int end_tile, unsigned char* place) {
    if (tile < end_tile) {
      const int thread = static_cast<int>(threadIdx.x);
      const int first = column + thread / 32 * block_width + thread % 4 * 8;
#pragma unroll
      for (int j = 0; j < blocks_of_unit; ++j) {
        const int at = first + j * warps * block_width;
        const bool real = at < p.in;
#pragma unroll
        for (int i = 0; i < matrices; ++i) {
          metala::cuda::copy_async(place + (j * matrices + i) * threads * 16,
                                   row[i] + (real ? at : 0), real);
        }
      }
      column += unit_width;
      if (column >= p.in) {
        column = 0;
        if (++tile < end_tile) find(p);
      }
    }
    metala::cuda::commit_copies();
  }
};

// Rows to multiply lie in shared memory as [block of columns][row][32].
__device__ __forceinline__ Bf16* place_of(const Problem& p, Bf16* rows, int row, int column) {
  return rows + (column / block_width * p.rows + row) * block_width + column % block_width;
}

__device__ __forceinline__ void copy_rows(const Problem& p, Bf16* rows) {
#pragma unroll 1
  for (int n = 0; n < p.rows; ++n) {
    const Bf16* from = p.ready + n * p.ready_stride;
#pragma unroll 2
    for (int column = static_cast<int>(threadIdx.x) * 8; column < p.in; column += threads * 8) {
      metala::cuda::copy_async(place_of(p, rows, n, column), from + column, true);
    }
  }
  metala::cuda::commit_copies();
  metala::cuda::wait_for_copies<0>();
}

__device__ __forceinline__ RowMemory memory_of_row(const Problem& p, unsigned char* memory, int n) {
  return row_memory(memory + n * row_bytes(p.in), p.in);
}

__device__ __forceinline__ void load_pasts(const Problem& p, unsigned char* memory) {
  if (p.conv.taps == nullptr) return;
#pragma unroll 1
  for (int n = 0; n < p.rows; ++n) {
    load_past(p.conv, n, p.in, memory_of_row(p, memory, n));
  }
}

// Norm and convolution of each row; the first block keeps the convolution's next input.
__device__ __forceinline__ void make_rows(const Problem& p, unsigned char* memory, Bf16* rows) {
#pragma unroll 1
  for (int n = 0; n < p.rows; ++n) {
    const RowMemory m = memory_of_row(p, memory, n);
    normed_row(p.norm, p.x + n * p.in, p.in, m, [&](int four, float4 v) {
      if (p.conv.taps != nullptr) {
        if (blockIdx.x == 0) reinterpret_cast<float4*>(p.normed + n * p.in)[four] = v;
        v = convolved(m, four, v);
      }
      store_four(v, place_of(p, rows, n, 4 * four));
    });
  }
}

// Sums of a warp over its blocks of columns, in two chains.
template <int matrices>
struct Tiles {
  Sums at[matrices][2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (auto& tile : at) tile[0] = tile[1] = {};
  }

  // A unit. Sequences are the instruction's 16 rows; only lanes whose row there is load it.
  __device__ __forceinline__ void add(const Problem& p, const Bf16* rows, int first_column,
                                      const unsigned char* unit) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const Bf16* const of_lane = rows + lane * 8;
    uint4 upper[blocks_of_unit] = {};
    uint4 lower[blocks_of_unit] = {};
#pragma unroll
    for (int j = 0; j < blocks_of_unit; ++j) {
      const int column = min(first_column + j * warps * block_width, p.in - block_width);
      const Bf16* const from = of_lane + column * p.rows;
      if (lane / 4 < p.rows) upper[j] = *reinterpret_cast<const uint4*>(from);
      if (lane / 4 + 8 < p.rows) {
        lower[j] = *reinterpret_cast<const uint4*>(from + 8 * block_width);
      }
    }
#pragma unroll
    for (int j = 0; j < blocks_of_unit; ++j) {
      const FragmentA a[2] = {{{upper[j].x, lower[j].x, upper[j].y, lower[j].y}},
                              {{upper[j].z, lower[j].z, upper[j].w, lower[j].w}}};
#pragma unroll
      for (int i = 0; i < matrices; ++i) {
        const uint4 w = *reinterpret_cast<const uint4*>(unit + (j * matrices + i) * threads * 16);
        FragmentB b[2];
        b[0].r[0] = w.x;
        b[0].r[1] = w.y;
        b[1].r[0] = w.z;
        b[1].r[1] = w.w;
        metala::cuda::multiply(at[i][0], a[0], b[0]);
        metala::cuda::multiply(at[i][1], a[1], b[1]);
      }
    }
  }

  // As rows of the tile's columns, of a pair's side by side.
  __device__ __forceinline__ void store(float* sums, int rows) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = half * 8 + lane / 4;
      if (row >= rows) continue;
#pragma unroll
      for (int i = 0; i < matrices; ++i) {
        const Sums& even = at[i][0];
        const Sums& odd = at[i][1];
        float* to = sums + (row * matrices + i) * tile_rows + lane % 4 * 2;
        to[0] = even.at[2 * half] + odd.at[2 * half];
        to[1] = even.at[2 * half + 1] + odd.at[2 * half + 1];
      }
    }
  }
};

__device__ __forceinline__ float sum_of_warps(const float* sums, int stride) {
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < warps; ++warp) sum += sums[warp * stride];
  return sum;
}

template <bool fused, Into into, bool paired>
__global__ void __launch_bounds__(threads, 2) product(Problem p) {
  constexpr int matrices = paired ? 2 : 1;
  extern __shared__ __align__(16) unsigned char memory[];
  metala::cuda::let_next_start();
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int first_tile = static_cast<int>(blockIdx.x) * p.tiles_of_block;
  const int end_tile = min(first_tile + p.tiles_of_block, p.tiles);
  const int sums_size = p.rows * matrices * tile_rows;  // of a warp
  unsigned char* const ring = memory + thread * 16;
  float* const sums = reinterpret_cast<float*>(memory + p.ring_units * unit_bytes<paired>);
  Bf16* const rows = reinterpret_cast<Bf16*>(sums + p.tiles_at_once * warps * sums_size);
  // Whose sums the thread finishes: a row of one of the tiles at once.
  const int turn = thread / tile_rows / p.rows;
  const int n = thread / tile_rows - turn * p.rows;

  Walk<paired> walk(p, first_tile);
#pragma unroll 1
  for (int unit = 0; unit < p.ring_units; ++unit) {
    walk.fetch(p, end_tile, ring + unit * unit_bytes<paired>);
  }
  if constexpr (fused) {
    auto* const row = reinterpret_cast<unsigned char*>(rows + p.rows * p.in);
    load_pasts(p, row);
    metala::cuda::await_previous();
    make_rows(p, row, rows);
  } else {
    metala::cuda::await_previous();
    copy_rows(p, rows);
  }
  __syncthreads();

  Tiles<matrices> tiles;
  int place = 0;
#pragma unroll 1
  for (int start = first_tile; start < end_tile; start += p.tiles_at_once) {
    const int end = min(start + p.tiles_at_once, end_tile);
    // What the thread will add to comes while the block multiplies.
    const int own = start + turn;
    const int column = own * tile_rows + thread % tile_rows;
    const bool mine = own < end && column < p.out;
    float before = 0;
    if constexpr (into == Into::add) {
      if (mine) before = __ldcg(p.y + n * p.y_stride + column);
    }
#pragma unroll 1
    for (int tile = start; tile < end; ++tile) {
      tiles.clear();
#pragma unroll 1
      for (int first = 0; first < p.in; first += unit_width) {
        wait_for_unit(p.ring_units);
        unsigned char* const unit = ring + place * unit_bytes<paired>;
        tiles.add(p, rows, first + warp * block_width, unit);
        walk.fetch(p, end_tile, unit);
        if (++place == p.ring_units) place = 0;
      }
      tiles.store(sums + ((tile - start) * warps + warp) * sums_size, p.rows);
    }
    __syncthreads();
    if (mine) {
      const float* const from =
          sums + (own - start) * warps * sums_size + n * matrices * tile_rows + thread % tile_rows;
      const float sum = sum_of_warps(from, sums_size);
      if constexpr (into == Into::write) {
        p.y[n * p.y_stride + column] = sum;
      } else if constexpr (into == Into::add) {
        const float bias = p.bias != nullptr ? p.bias[column] : 0.0f;
        p.y[n * p.y_stride + column] = before + sum + bias;
      } else {
        const float other = paired ? sum_of_warps(from + tile_rows, sums_size) : 0.0f;
        p.h[n * p.h_stride + column] =
            metala::cuda::from_float<Bf16>(gated(p.gate, column, sum, other));
      }
    }
    if (end < end_tile) __syncthreads();  // the sums are used again
  }
}

// h from products of many rows [N, out or 2 out], four columns a thread.
__global__ void __launch_bounds__(threads) gate_rows(Problem p) {
  metala::cuda::let_next_start();
  metala::cuda::await_previous();
  const int column = 4 * (static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x));
  if (column >= p.out) return;
  const float* from = p.y + blockIdx.y * p.y_stride + column;
  const float4 a = load_four(from);
  const float4 b = p.gate.paired ? load_four(from + p.out) : a;
  store_four(gated(p.gate, column, a, b), p.h + blockIdx.y * p.h_stride + column);
}

template <bool fused, bool paired>
std::size_t shared_bytes(const Problem& p) {
  const int sums = p.tiles_at_once * warps * p.rows * (paired ? 2 : 1) * tile_rows;
  return static_cast<std::size_t>(p.ring_units) * unit_bytes<paired> +
         sizeof(float) * static_cast<std::size_t>(sums) +
         static_cast<std::size_t>(p.rows) *
             (sizeof(Bf16) * static_cast<std::size_t>(p.in) + (fused ? row_bytes(p.in) : 0));
}

// What a block may have besides the little that is static.
std::size_t shared_memory_of_block(Device device) {
  int bytes = 0;
  metala::cuda::check(
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device.index),
      "cuda: reading the GPU's properties");
  return static_cast<std::size_t>(bytes) - 1024;
}

// Cuts the work into blocks and launches it; false where there are too many rows for the
// instruction or for shared memory.
template <bool fused, Into into, bool paired = false>
bool launch(Problem p, Device device, cudaStream_t stream) {
  if (p.rows > most_rows) return false;
  const int multiprocessors = metala::cuda::multiprocessors(device);
  p.tiles = (p.out + tile_rows - 1) / tile_rows;
  const int each = (p.tiles + multiprocessors - 1) / multiprocessors;
  p.tiles_of_block = each <= 4 ? each : (each + 1) / 2;
  p.tiles_at_once = std::min({p.tiles_of_block, most_tiles_at_once, threads / tile_rows / p.rows});
  const std::size_t most = shared_memory_of_block(device);
  p.ring_units = std::min(paired ? 3 : 4, p.tiles_of_block * ((p.in - 1) / unit_width + 1));
  while (p.ring_units > 1 && shared_bytes<fused, paired>(p) > most) --p.ring_units;
  const std::size_t bytes = shared_bytes<fused, paired>(p);
  if (bytes > most) return false;
  const dim3 grid(static_cast<unsigned>((p.tiles + p.tiles_of_block - 1) / p.tiles_of_block));
  metala::cuda::launch_early(product<fused, into, paired>, grid, threads, bytes, stream, p);
  return true;
}

Problem problem(const Rows& rows, std::span<const Tensor> weights) {
  Problem p = {};
  for (const Tensor& w : weights) {
    p.weights.at[p.weights.count] = static_cast<const Bf16*>(w.raw());
    p.out += static_cast<int>(w.size(0));
    p.weights.end[p.weights.count++] = p.out;
    p.in = static_cast<int>(w.size(1));
  }
  const Tensor& in = rows.y.defined() ? rows.y : rows.x;
  p.rows = static_cast<int>(in.size(0));
  if (rows.y.defined()) {
    p.ready = static_cast<const Bf16*>(rows.y.raw());
    p.ready_stride = rows.y.stride(0);
  } else {
    p.x = static_cast<const float*>(rows.x.raw());
    p.norm = arguments(rows.norm);
    p.conv = arguments(rows.conv);
    p.normed = static_cast<float*>(rows.normed.raw());
  }
  return p;
}

void put_products(Problem& p, const Tensor& y) {
  p.y = static_cast<float*>(y.raw());
  p.y_stride = y.stride(0);
}

// The matrices as one, where they lie one after the other; undefined otherwise.
Tensor stacked(std::span<const Tensor> matrices) {
  const Tensor& first = matrices.front();
  std::int64_t rows = 0;
  std::size_t bytes = 0;
  for (const Tensor& m : matrices) {
    if (m.raw() != static_cast<const unsigned char*>(first.raw()) + bytes) return {};
    rows += m.size(0);
    bytes += m.bytes();
  }
  return Tensor::wrap(first.raw(), {rows, first.size(1)}, first.dtype(), nullptr, first.device());
}

// y [N, all out] = rows times each of the weights, for many rows.
void multiply(const Tensor& rows, std::span<const Tensor> weights, const Tensor& y) {
  using metala::cuda::Transpose;
  const Tensor whole = stacked(weights);
  if (whole.defined()) {
    return metala::cuda::matrix_product(rows, Transpose::no, whole, Transpose::yes, y);
  }
  std::int64_t at = 0;
  for (const Tensor& w : weights) {
    metala::cuda::matrix_product(rows, Transpose::no, w, Transpose::yes,
                                 y.slice(1, at, at + w.size(0)));
    at += w.size(0);
  }
}

}  // namespace

void project(const Rows& rows, std::span<const Tensor> weights, Tensor y) {
  const auto stream = metala::cuda::enter("decode", {&rows.y, &rows.x, &weights[0], &y});
  Problem p = problem(rows, weights);
  put_products(p, y);
  if (!rows.y.defined()) {
    launch<true, Into::write>(p, y.device(), stream);
    return;
  }
  const Tensor whole = stacked(weights);
  if (whole.defined() && project_in_tiles(rows.y, whole, y)) return;
  if (!launch<false, Into::write>(p, y.device(), stream)) multiply(rows.y, weights, y);
}

void project_gated(const Rows& rows, const Gated& gated, Tensor products, Tensor h) {
  const auto stream = metala::cuda::enter("decode", {&rows.y, &rows.x, &gated.weight1, &h});
  const bool paired = gated.weight2.defined();
  const Tensor both[] = {gated.weight1, gated.weight2};
  const std::span<const Tensor> weights(both, paired ? 2 : 1);
  Problem p = problem(rows, weights);
  p.out = static_cast<int>(h.size(1));
  p.gate = arguments(gated);
  p.h = static_cast<Bf16*>(h.raw());
  p.h_stride = h.stride(0);
  const Device device = h.device();
  if (!rows.y.defined()) {
    paired ? launch<true, Into::gate, true>(p, device, stream)
           : launch<true, Into::gate>(p, device, stream);
    return;
  }
  if (project_gated_in_tiles(rows.y, gated, h)) return;
  if (paired ? launch<false, Into::gate, true>(p, device, stream)
             : launch<false, Into::gate>(p, device, stream)) {
    return;
  }
  multiply(rows.y, weights, products);
  put_products(p, products);
  const dim3 grid(static_cast<unsigned>((p.out / 4 + threads - 1) / threads),
                  static_cast<unsigned>(p.rows));
  metala::cuda::launch_early(gate_rows, grid, threads, 0, stream, p);
}

void project_onto(const Tensor& y, const Tensor& weight, const Tensor& bias, Tensor x) {
  const auto stream = metala::cuda::enter("decode", {&y, &weight, &bias, &x});
  Problem p = problem({y, {}, {}, {}, {}}, std::span<const Tensor>(&weight, 1));
  p.bias = static_cast<const float*>(bias.raw());
  put_products(p, x);
  if (project_onto_in_tiles(y, weight, bias, x)) return;
  if (launch<false, Into::add>(p, x.device(), stream)) return;
  using metala::cuda::Transpose;
  metala::cuda::matrix_product(y, Transpose::no, weight, Transpose::yes, x, x);
  if (bias.defined()) metala::cuda::add_bias(bias, x);
}

}  // namespace metala::decode::cuda
