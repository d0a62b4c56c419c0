// Labelled rows in tiles: a matrix product gives a tile's logits in f32, a block for each row finds
// its loss and turns logits into their gradient, two more products carry that into dx and dW. Where
// every row has a label the products read and write x and dx themselves, else gathered copies.
#include <algorithm>
#include <cfloat>
#include <climits>

#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/exponentials.cuh"
#include "metala/device/cuda/matrix_product_cuda.h"
#include "metala/device/cuda/pieces.h"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/cross_entropy/cross_entropy_cuda.h"

namespace metala::cross_entropy::cuda {
namespace {

using metala::cuda::exponential;
using metala::cuda::Floats;
using metala::cuda::from_float;
using metala::cuda::to_float;
using metala::cuda::Transpose;

constexpr std::int64_t tile_elements = std::int64_t{1} << 26;  // 256 MiB of logits
constexpr int threads = 1024;
constexpr unsigned everyone = 0xffffffffu;

// A row's largest logit and that one's first place (a NaN counts as the largest), and the sum of
// e^(z - largest).
struct Row {
  float largest;
  int place;
  float sum;
};

// Calls f(place, logits at place .. place + n - 1) for a thread's packs of n logits.
template <int n, class F>
__device__ __forceinline__ void each_pack(const float* z, int vocabulary, F f) {
#pragma unroll 2
  for (int at = static_cast<int>(threadIdx.x) * n; at < vocabulary; at += threads * n) {
    f(at, metala::cuda::load<n>(z + at));
  }
}

// One row for all lanes, from a part each.
template <class T>
__device__ __forceinline__ Row joined_over_warp(const Row& own) {
  const float largest = metala::cuda::warp_max(own.largest);
  const int place = own.largest == largest ? own.place : INT_MAX;
  return {largest, __reduce_min_sync(everyone, place),
          metala::cuda::warp_sum(own.sum * exponential<T>(own.largest - largest))};
}

template <class T>
__device__ __forceinline__ Row joined_over_block(Row row) {
  __shared__ Row rows[32];
  row = joined_over_warp<T>(row);
  if (threadIdx.x % 32 == 0) rows[threadIdx.x / 32] = row;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return joined_over_warp<T>(lane < threads / 32 ? rows[lane] : Row{-FLT_MAX, INT_MAX, 0});
}

// Every thread gets the whole row's. Exponentials are as precise as T.
template <int n, class T>
__device__ Row read_row(const float* z, int vocabulary) {
  Row own = {-FLT_MAX, INT_MAX, 0};
  each_pack<n>(z, vocabulary, [&](int at, const Floats<n>& pack) {
    float most = pack.at[0];
#pragma unroll
    for (int i = 1; i < n; ++i) most = fmaxf(most, pack.at[i]);
    if (most > own.largest) {
      own.sum *= exponential<T>(own.largest - most);
      own.largest = most;
      own.place = at;  // or one of the next
    }
#pragma unroll
    for (int i = 0; i < n; ++i) own.sum += exponential<T>(pack.at[i] - own.largest);
  });
  if (own.place != INT_MAX) {
    while (z[own.place] != own.largest) ++own.place;
  }
  Row row = joined_over_block<T>(own);
  if (!isnan(row.sum)) return row;
  // The maximum passed a NaN by; the sum did not, nor an infinity.
  int place = INT_MAX;
  each_pack<n>(z, vocabulary, [&](int at, const Floats<n>& pack) {
#pragma unroll
    for (int i = 0; i < n; ++i) place = isnan(pack.at[i]) ? min(place, at + i) : place;
  });
  __shared__ int first_nan;
  if (threadIdx.x == 0) first_nan = INT_MAX;
  __syncthreads();
  atomicMin(&first_nan, place);
  __syncthreads();
  if (first_nan != INT_MAX) row.place = first_nan;
  return row;
}

struct Found {
  float* loss;         // [N]
  std::int32_t* best;  // [N]
};

// gradients null: not wanted; they may be the logits themselves. `rows` null: tile row i is row
// first + i.
template <int n, class T>
__global__ void __launch_bounds__(threads)
    finish_rows(const float* logits, int vocabulary, const std::int32_t* rows, std::int64_t first,
                const std::int32_t* labels, float scale, T* gradients, Found found) {
  const std::int64_t own = static_cast<std::int64_t>(blockIdx.x) * vocabulary;
  const float* z = logits + own;
  const std::int64_t place = rows == nullptr ? first + blockIdx.x : rows[first + blockIdx.x];
  const int label = labels[place];
  const float at_label = z[label];
  const Row row = read_row<n, T>(z, vocabulary);
  if (threadIdx.x == 0) {
    found.loss[place] = logf(row.sum) + (row.largest - at_label);
    found.best[place] = row.place;
  }
  if (gradients == nullptr) return;
  const float share = scale / row.sum;
  each_pack<n>(z, vocabulary, [&](int at, Floats<n> pack) {
#pragma unroll
    for (int i = 0; i < n; ++i) pack.at[i] = share * exponential<T>(pack.at[i] - row.largest);
    metala::cuda::store(pack, gradients + own + at);
    if (at <= label && label < at + n) {
      gradients[own + label] =
          from_float<T>(share * exponential<T>(at_label - row.largest) - scale);
    }
  });
}

// The numbers of the rows that have a label, in order. One block.
__global__ void __launch_bounds__(threads)
    list_rows(const std::int32_t* labels, int count, std::int32_t* rows) {
  __shared__ int of_warp[threads / 32];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  int done = 0;
  for (int first = 0; first < count; first += threads) {
    const int n = first + static_cast<int>(threadIdx.x);
    const bool labelled = n < count && labels[n] >= 0;
    const unsigned mask = __ballot_sync(everyone, labelled);
    if (lane == 0) of_warp[warp] = __popc(mask);
    __syncthreads();
    int before = done;
    for (int w = 0; w < threads / 32; ++w) {
      if (w < warp) before += of_warp[w];
      done += of_warp[w];
    }
    if (labelled) rows[before + __popc(mask & ((1u << lane) - 1))] = n;
    __syncthreads();
  }
}

template <class T>
__global__ void __launch_bounds__(256)
    gather_rows(const std::int32_t* rows, const T* from, std::int64_t stride, T* to, int width) {
  const T* row = from + rows[blockIdx.x] * stride;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += 256) {
    to[static_cast<std::int64_t>(blockIdx.x) * width + i] = row[i];
  }
}

template <class T>
__global__ void __launch_bounds__(256)
    scatter_rows(const std::int32_t* rows, const T* from, T* to, std::int64_t stride, int width) {
  T* row = to + rows[blockIdx.x] * stride;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += 256) {
    const float value = to_float(from[static_cast<std::int64_t>(blockIdx.x) * width + i]);
    row[i] = from_float<T>(to_float(row[i]) + value);
  }
}

// Adds the labelled rows' losses and counts to `sums`, and marks the others. One block, a fixed
// order.
__global__ void __launch_bounds__(threads)
    add_up(const std::int32_t* labels, std::int64_t count, Found found, double* sums) {
  __shared__ double parts[3][threads];
  double own[3] = {0, 0, 0};
  for (std::int64_t n = threadIdx.x; n < count; n += threads) {
    if (labels[n] < 0) {
      found.loss[n] = 0;
      found.best[n] = -1;
      continue;
    }
    own[0] += static_cast<double>(found.loss[n]);
    own[1] += 1;
    own[2] += found.best[n] == labels[n] ? 1 : 0;
  }
  for (int i = 0; i < 3; ++i) parts[i][threadIdx.x] = own[i];
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) >= half) continue;
    for (int i = 0; i < 3; ++i) parts[i][threadIdx.x] += parts[i][threadIdx.x + half];
  }
  if (threadIdx.x < 3) sums[threadIdx.x] += parts[threadIdx.x][0];
}

struct Scratch {
  Tensor logits, gradients, inputs, dinputs;
  std::int32_t* rows = nullptr;
  Found found = {};
};

}  // namespace

void run(const Tensor& x, const Tensor& weight, Ids labels, double scale, const Gradients& to,
         const Tensor& sums, const Rows& wanted) {
  const auto stream = metala::cuda::enter(
      "cross_entropy", {&x, &weight, &sums, &to.x, &to.weight, &wanted.loss, &wanted.best});
  const std::int64_t count = x.size(0);
  const std::int64_t width = x.size(1);
  const std::int64_t vocabulary = weight.size(0);
  const DType type = x.dtype();
  const Device device = x.device();
  const std::int64_t labelled =
      std::count_if(labels.begin(), labels.end(), [](std::int32_t label) { return label >= 0; });
  const bool gathered = labelled < count;
  const bool gradient = to.x.defined();
  const std::int64_t rows_that_fit =
      std::max<std::int64_t>(tile_elements / vocabulary / 128 * 128, 128);
  const std::int64_t tile = std::min(labelled, rows_that_fit);

  Scratch s;
  s.found = {static_cast<float*>(wanted.loss.raw()), static_cast<std::int32_t*>(wanted.best.raw())};
  metala::cuda::Pieces::lay(device, [&](metala::cuda::Pieces& pieces) {
    s.logits = pieces.matrix(tile, vocabulary, DType::f32, device);
    s.gradients = type == DType::f32 ? s.logits : pieces.matrix(tile, vocabulary, type, device);
    if (gathered) {
      s.inputs = pieces.matrix(tile, width, type, device);
      s.dinputs = pieces.matrix(tile, width, type, device);
      s.rows = pieces.take<std::int32_t>(labelled);
    }
    if (!wanted.loss.defined()) s.found.loss = pieces.take<float>(count);
    if (!wanted.best.defined()) s.found.best = pieces.take<std::int32_t>(count);
  });

  if (gathered && labelled > 0) {
    list_rows<<<1, threads, 0, stream>>>(labels.there(), static_cast<int>(count), s.rows);
  }
  metala::cuda::with_type(type, [&]<class T>(T) {
    for (std::int64_t first = 0; first < labelled; first += tile) {
      const std::int64_t rows = std::min(tile, labelled - first);
      const auto blocks = static_cast<unsigned>(rows);
      if (gathered) {
        gather_rows<T><<<blocks, 256, 0, stream>>>(s.rows + first, static_cast<const T*>(x.raw()),
                                                   x.stride(0), static_cast<T*>(s.inputs.raw()),
                                                   static_cast<int>(width));
      }
      const Tensor in = gathered ? s.inputs.rows(0, rows) : x.rows(first, first + rows);
      const Tensor z = s.logits.rows(0, rows);
      const Tensor dz = s.gradients.rows(0, rows);
      metala::cuda::matrix_product(in, Transpose::no, weight, Transpose::yes, z);
      const auto finish = vocabulary % 8 == 0 ? finish_rows<8, T> : finish_rows<1, T>;
      finish<<<blocks, threads, 0, stream>>>(
          static_cast<const float*>(z.raw()), static_cast<int>(vocabulary), s.rows, first,
          labels.there(), static_cast<float>(scale), gradient ? static_cast<T*>(dz.raw()) : nullptr,
          s.found);
      if (!gradient) continue;
      const Tensor din = gathered ? s.dinputs.rows(0, rows) : to.x.rows(first, first + rows);
      metala::cuda::matrix_product(dz, Transpose::no, weight, Transpose::no, din,
                                   gathered ? Tensor() : din);
      metala::cuda::matrix_product(dz, Transpose::yes, in, Transpose::no, to.weight, to.weight);
      if (!gathered) continue;
      scatter_rows<T><<<blocks, 256, 0, stream>>>(s.rows + first, static_cast<const T*>(din.raw()),
                                                  static_cast<T*>(to.x.raw()), to.x.stride(0),
                                                  static_cast<int>(width));
    }
  });
  add_up<<<1, threads, 0, stream>>>(labels.there(), count, s.found,
                                    static_cast<double*>(sums.raw()));
  metala::cuda::check_launch("cross_entropy");
}

}  // namespace metala::cross_entropy::cuda
