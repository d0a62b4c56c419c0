#include "metala/device/cuda/column_sums.h"

#include <algorithm>

#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/vector.cuh"

namespace metala::cuda {
namespace {

constexpr int side = 32;  // of a block of threads: neighbours in x own neighbouring columns
constexpr std::int64_t most_parts = 64;

// Block (x, y) sums rows y * rows_of_block .. of 32 columns into to[y, :], or adds them there.
template <class T, bool add>
__global__ void __launch_bounds__(side* side)
    sum_columns(const T* rows, std::int64_t stride, std::int64_t count, std::int64_t rows_of_block,
                std::int64_t width, float* to) {
  __shared__ float sums[side][side + 1];
  const int x = static_cast<int>(threadIdx.x);
  const int y = static_cast<int>(threadIdx.y);
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * side + x;
  const std::int64_t begin = blockIdx.y * rows_of_block;
  const std::int64_t end = begin + rows_of_block < count ? begin + rows_of_block : count;
  float sum = 0;
  if (column < width) {
#pragma unroll 4
    for (std::int64_t n = begin + y; n < end; n += side) sum += to_float(rows[n * stride + column]);
  }
  sums[y][x] = sum;
#pragma unroll
  for (int half = side / 2; half > 0; half /= 2) {
    __syncthreads();
    if (y < half) sums[y][x] += sums[y + half][x];
  }
  if (y != 0 || column >= width) return;
  float& at = to[blockIdx.y * width + column];
  at = add ? at + sums[0][x] : sums[0][x];
}

dim3 blocks_for(std::int64_t width, std::int64_t parts) {
  return {static_cast<unsigned>((width + side - 1) / side), static_cast<unsigned>(parts), 1};
}

}  // namespace

void add_partial_sums(const float* partial, std::int64_t count, std::int64_t width, float* to,
                      cudaStream_t stream) {
  sum_columns<float, true><<<blocks_for(width, 1), dim3(side, side), 0, stream>>>(
      partial, width, count, count, width, to);
}

void add_column_sums(const Tensor& rows, const Tensor& to) {
  const auto stream = enter("column sums", {&rows, &to});
  const std::int64_t count = rows.size(0);
  const std::int64_t width = rows.size(1);
  if (rows.count() == 0) return;
  const std::int64_t rows_of_block =
      std::max<std::int64_t>(4 * side, (count + most_parts - 1) / most_parts);
  const std::int64_t parts = (count + rows_of_block - 1) / rows_of_block;
  auto* partial = static_cast<float*>(
      workspace(rows.device(), static_cast<std::size_t>(parts * width) * sizeof(float)));
  with_type(rows.dtype(), [&]<class T>(T) {
    sum_columns<T, false><<<blocks_for(width, parts), dim3(side, side), 0, stream>>>(
        static_cast<const T*>(rows.raw()), rows.stride(0), count, rows_of_block, width, partial);
  });
  add_partial_sums(partial, parts, width, static_cast<float*>(to.raw()), stream);
  check_launch("column sums");
}

}  // namespace metala::cuda
