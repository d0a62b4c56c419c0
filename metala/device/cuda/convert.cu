#include "metala/device/cuda/convert.h"

#include <algorithm>
#include <type_traits>

#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/vector.cuh"

namespace metala::cuda {
namespace {

// Calls f(row, column) for this thread's share of `count` rows of `width` elements.
template <class F>
__device__ __forceinline__ void each_element(std::size_t width, std::size_t count, F f) {
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < width * count; i += step) {
    const std::size_t row = i / width;
    f(row, i - row * width);
  }
}

// `width` in units of T.
template <class T>
__global__ void zero_rows(std::byte* to, std::size_t pitch, std::size_t width, std::size_t count) {
  each_element(width, count, [&](std::size_t row, std::size_t column) {
    reinterpret_cast<T*>(to + row * pitch)[column] = T();
  });
}

// As they are, where the types are one; else as the nearest value.
template <class To, class From>
__global__ void copy_rows(std::byte* to, std::size_t to_pitch, const std::byte* from,
                          std::size_t from_pitch, std::size_t width, std::size_t count) {
  each_element(width, count, [&](std::size_t row, std::size_t column) {
    const From& in = reinterpret_cast<const From*>(from + row * from_pitch)[column];
    To& out = reinterpret_cast<To*>(to + row * to_pitch)[column];
    if constexpr (std::is_same_v<To, From>) {
      out = in;
    } else {
      out = from_float<To>(to_float(in));
    }
  });
}

unsigned blocks_for(std::size_t items) {
  return static_cast<unsigned>(std::min<std::size_t>((items + 255) / 256, 8192));
}

}  // namespace

void zero(void* to, std::size_t pitch, std::size_t width, std::size_t count, cudaStream_t stream) {
  if (width == 0 || count == 0) return;
  if (count == 1 || pitch == width) {
    return check(cudaMemsetAsync(to, 0, width * count, stream), "cuda: zeroing");
  }
  auto* const bytes = static_cast<std::byte*>(to);
  if ((reinterpret_cast<std::uintptr_t>(to) | pitch | width) % sizeof(uint4) == 0) {
    const std::size_t units = width / sizeof(uint4);
    zero_rows<uint4><<<blocks_for(units * count), 256, 0, stream>>>(bytes, pitch, units, count);
  } else {
    zero_rows<unsigned char>
        <<<blocks_for(width * count), 256, 0, stream>>>(bytes, pitch, width, count);
  }
  check_launch("cuda: zeroing");
}

void copy(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
          std::size_t width, std::size_t count, cudaStream_t stream) {
  if (width == 0 || count == 0) return;
  if (count == 1 || (to_pitch == width && from_pitch == width)) {
    return check(cudaMemcpyAsync(to, from, width * count, cudaMemcpyDeviceToDevice, stream),
                 "cuda: copying memory");
  }
  auto* const there = static_cast<std::byte*>(to);
  const auto* const here = static_cast<const std::byte*>(from);
  const auto addresses =
      reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from);
  if ((addresses | to_pitch | from_pitch | width) % sizeof(uint4) == 0) {
    const std::size_t units = width / sizeof(uint4);
    copy_rows<uint4, uint4><<<blocks_for(units * count), 256, 0, stream>>>(
        there, to_pitch, here, from_pitch, units, count);
  } else {
    copy_rows<unsigned char, unsigned char><<<blocks_for(width * count), 256, 0, stream>>>(
        there, to_pitch, here, from_pitch, width, count);
  }
  check_launch("cuda: copying memory");
}

void convert(void* to, std::size_t to_pitch, DType to_type, const void* from,
             std::size_t from_pitch, DType from_type, std::size_t width, std::size_t count,
             cudaStream_t stream) {
  with_type(to_type, [&]<class To>(To) {
    with_type(from_type, [&]<class From>(From) {
      copy_rows<To, From><<<blocks_for(width * count), 256, 0, stream>>>(
          static_cast<std::byte*>(to), to_pitch, static_cast<const std::byte*>(from), from_pitch,
          width, count);
    });
  });
  check_launch("cuda: convert");
}

const void* any_kernel() {
  return reinterpret_cast<const void*>(&copy_rows<float, float>);
}

}  // namespace metala::cuda
