// A thread decides on four neighbouring elements by one block of random bits.
#include "metala/base/random.h"
#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/ragged.cuh"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/dropout/dropout_cuda.h"

namespace metala::dropout::cuda {
namespace {

using metala::cuda::from_float;
using metala::cuda::to_float;

using metala::cuda::sequence_of;

constexpr int threads = 256;

// Rows, as a kernel reads it.
struct Places {
  const std::int64_t *offsets, *origins;  // origins null: rows lie where they are
  std::int64_t batch;

  __device__ std::int64_t operator()(std::int64_t row) const {
    if (origins == nullptr) return row;
    const std::int64_t b = sequence_of(offsets, batch, row);
    return origins[b] + row - offsets[b];
  }
};

template <class T>
__global__ void __launch_bounds__(threads)
    apply_blocks(Philox random, std::uint32_t threshold, float scale, const T* x,
                 std::int64_t x_stride, T* y, std::int64_t y_stride, std::int64_t rows, int width,
                 Places place, bool accumulate) {
  const int row_blocks = (width + 3) / 4;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  const std::int64_t n = index / row_blocks;
  if (n >= rows) return;
  const std::int64_t block = index % row_blocks;
  const int first = static_cast<int>(block) * 4;
  const auto bits = random.block(static_cast<std::uint64_t>(place(n) * row_blocks + block));
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int i = first + j;
    if (i >= width) continue;
    T& to = y[n * y_stride + i];
    float value = bits[j] >= threshold ? to_float(x[n * x_stride + i]) * scale : 0.0f;
    if (accumulate) value += to_float(to);
    to = from_float<T>(value);
  }
}

}  // namespace

void apply(const Mask& mask, const Tensor& x, Tensor y, const Rows& rows, bool accumulate) {
  const auto stream = metala::cuda::enter("dropout", {&x, &y});
  if (x.count() == 0) return;
  const std::int64_t blocks = x.size(0) * ((x.size(1) + 3) / 4);
  const Places places = {rows.offsets.there(), rows.origins.there(), batch_of(rows.offsets)};
  metala::cuda::with_type(x.dtype(), [&]<class T>(T) {
    apply_blocks<T>
        <<<static_cast<unsigned>((blocks + threads - 1) / threads), threads, 0, stream>>>(
            Philox(mask.seed, mask.stream), static_cast<std::uint32_t>(mask.probability * 0x1p32),
            static_cast<float>(1 / (1 - mask.probability)), static_cast<const T*>(x.raw()),
            x.stride(0), static_cast<T*>(y.raw()), y.stride(0), x.size(0),
            static_cast<int>(x.size(1)), places, accumulate);
  });
  metala::cuda::check_launch("dropout");
}

}  // namespace metala::dropout::cuda
