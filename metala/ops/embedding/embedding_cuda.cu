#include "metala/device/cuda/cuda_device.h"
#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/vector.cuh"
#include "metala/ops/embedding/embedding_cuda.h"

namespace metala::embedding::cuda {
namespace {

using metala::cuda::from_float;
using metala::cuda::to_float;

constexpr int threads = 256;

template <class T, class W>
__global__ void __launch_bounds__(threads)
    look_up(const std::int32_t* ids, const W* table, std::int64_t table_stride, std::int64_t rows,
            float scale, T* y, std::int64_t y_stride, int width) {
  const std::int32_t id = ids[blockIdx.x];
  const bool valid = id >= 0 && id < rows;
  const W* from = table + (valid ? id : 0) * table_stride;
  T* to = y + blockIdx.x * y_stride;
  for (int i = static_cast<int>(threadIdx.x); i < width; i += threads) {
    to[i] = from_float<T>(valid ? to_float(from[i]) * scale : NAN);
  }
}

}  // namespace

void forward(Ids ids, const Tensor& table, double scale, Tensor y) {
  const auto stream = metala::cuda::enter("embedding", {&table, &y});
  if (y.count() == 0) return;
  metala::cuda::with_type(y.dtype(), [&]<class T>(T) {
    metala::cuda::with_type(table.dtype(), [&]<class W>(W) {
      look_up<T, W><<<static_cast<unsigned>(y.size(0)), threads, 0, stream>>>(
          ids.there(), static_cast<const W*>(table.raw()), table.stride(0), table.size(0),
          static_cast<float>(scale), static_cast<T*>(y.raw()), y.stride(0),
          static_cast<int>(y.size(1)));
    });
  });
  metala::cuda::check_launch("embedding");
}

}  // namespace metala::embedding::cuda
