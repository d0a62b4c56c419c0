#include "metala/device/cuda/convert.h"

#include <algorithm>

#include "metala/device/cuda/cuda_error.h"
#include "metala/device/cuda/vector.cuh"

namespace metala::cuda {
namespace {

template <class To, class From>
__global__ void convert_rows(std::byte* to, std::size_t to_pitch, const std::byte* from,
                             std::size_t from_pitch, std::size_t width, std::size_t count) {
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < width * count; i += step) {
    const std::size_t row = i / width;
    const std::size_t column = i - row * width;
    const auto* in = reinterpret_cast<const From*>(from + row * from_pitch);
    auto* out = reinterpret_cast<To*>(to + row * to_pitch);
    out[column] = from_float<To>(to_float(in[column]));
  }
}

}  // namespace

void convert(void* to, std::size_t to_pitch, DType to_type, const void* from,
             std::size_t from_pitch, DType from_type, std::size_t width, std::size_t count,
             cudaStream_t stream) {
  const std::size_t blocks = std::min<std::size_t>((width * count + 255) / 256, 8192);
  with_type(to_type, [&]<class To>(To) {
    with_type(from_type, [&]<class From>(From) {
      convert_rows<To, From><<<static_cast<unsigned>(blocks), 256, 0, stream>>>(
          static_cast<std::byte*>(to), to_pitch, static_cast<const std::byte*>(from), from_pitch,
          width, count);
    });
  });
  check_launch("cuda: convert");
}

const void* any_kernel() {
  return reinterpret_cast<const void*>(&convert_rows<float, float>);
}

}  // namespace metala::cuda
