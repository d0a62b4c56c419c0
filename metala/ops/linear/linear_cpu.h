// The fast forms, picked by linear.cpp. Arguments are checked before they come here.
#pragma once

#include "metala/base/tensor.h"

namespace metala::linear::cpu {

// Rows of W that a thread takes at once when W is streamed: enough bytes for the prefetcher to run,
// few enough that threads end together although one reads faster than another.
inline std::int64_t rows_at_a_time(const Tensor& weight) {
  constexpr std::size_t bytes = std::size_t{512} << 10;
  const std::size_t row = bytes_of(weight.dtype(), static_cast<std::size_t>(weight.size(1)));
  return static_cast<std::int64_t>(bytes / (row + 1)) + 2;
}

// Few rows of x: W is streamed once, row by row, in its own type (f32, bf16, f16).
void forward_streaming(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y,
                       bool accumulate);

// Many rows: the BLAS; weights narrower than f32 are widened a panel at a time.
void forward_blas(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y,
                  bool accumulate);
void backward_input_blas(const Tensor& dy, const Tensor& weight, Tensor dx);
void backward_weight_blas(const Tensor& dy, const Tensor& x, Tensor dweight, Tensor dbias);

// Few rows of x, W in blocks (q8, q4).
void forward_quantized(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor y,
                       bool accumulate);

// Rows of 16-bit numbers, or of blocks, as f32.
void widen(const Tensor& from, Tensor to);
void widen_quantized(const Tensor& from, Tensor to);

}  // namespace metala::linear::cpu
