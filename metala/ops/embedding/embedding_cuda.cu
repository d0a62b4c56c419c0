// Forwards a block copies a row. Backwards positions are sorted by id, stably, and a block adds up
// one id's rows in the order of their positions: the same bits on every run.
#include <cub/device/device_radix_sort.cuh>

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

__global__ void __launch_bounds__(threads) count_up(std::int32_t* positions, int count) {
  const int i = static_cast<int>(blockIdx.x * threads + threadIdx.x);
  if (i < count) positions[i] = i;
}

// Ids ascend; the block of an id's first place works for all of its places.
template <class T>
__global__ void __launch_bounds__(threads)
    add_rows(const std::int32_t* ids, const std::int32_t* positions, int count, const T* dy,
             std::int64_t dy_stride, float scale, float* dtable, std::int64_t dtable_stride,
             std::int64_t rows, int width, std::int32_t frozen_id) {
  const int first = static_cast<int>(blockIdx.x);
  const std::int32_t id = ids[first];
  if (first > 0 && ids[first - 1] == id) return;
  if (id < 0 || id >= rows || id == frozen_id) return;
  int end = first + 1;  // of the id's places: the lowest with a larger id
  for (int high = count; end < high;) {
    const int middle = (end + high) / 2;
    if (ids[middle] == id) {
      end = middle + 1;
    } else {
      high = middle;
    }
  }
  for (int i = static_cast<int>(threadIdx.x); i < width; i += threads) {
    float sum = 0;
#pragma unroll 8
    for (int place = first; place < end; ++place) {
      sum += to_float(dy[positions[place] * dy_stride + i]);
    }
    dtable[id * dtable_stride + i] += scale * sum;
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

void backward(Ids ids, const Tensor& dy, double scale, Tensor dtable, std::int32_t frozen_id) {
  const auto stream = metala::cuda::enter("embedding", {&dy, &dtable});
  if (dy.count() == 0) return;
  const int count = static_cast<int>(dy.size(0));
  std::int32_t* none = nullptr;
  std::size_t sorting = 0;
  const auto sort = [&](void* memory, std::int32_t* sorted, std::int32_t* from, std::int32_t* to) {
    metala::cuda::check(cub::DeviceRadixSort::SortPairs(memory, sorting, ids.there(), sorted, from,
                                                        to, count, 0, 32, stream),
                        "embedding: sorting");
  };
  sort(nullptr, none, none, none);  // asks for the bytes
  const std::size_t list =
      (static_cast<std::size_t>(count) * sizeof(std::int32_t) + 255) / 256 * 256;
  auto* memory =
      static_cast<unsigned char*>(metala::cuda::workspace(dy.device(), 3 * list + sorting));
  auto* sorted = reinterpret_cast<std::int32_t*>(memory);
  auto* unordered = reinterpret_cast<std::int32_t*>(memory + list);
  auto* positions = reinterpret_cast<std::int32_t*>(memory + 2 * list);
  const auto blocks = static_cast<unsigned>((count + threads - 1) / threads);
  count_up<<<blocks, threads, 0, stream>>>(unordered, count);
  sort(memory + 3 * list, sorted, unordered, positions);
  metala::cuda::with_type(dy.dtype(), [&]<class T>(T) {
    add_rows<T><<<static_cast<unsigned>(count), threads, 0, stream>>>(
        sorted, positions, count, static_cast<const T*>(dy.raw()), dy.stride(0),
        static_cast<float>(scale), static_cast<float*>(dtable.raw()), dtable.stride(0),
        dtable.size(0), static_cast<int>(dtable.size(1)), frozen_id);
  });
  metala::cuda::check_launch("embedding, backward");
}

}  // namespace metala::embedding::cuda
