// The fast forms, picked by linear.cpp. Arguments are checked before they come here.
#pragma once

#include "metala/base/tensor.h"
#include "metala/base/threads.h"

namespace metala::linear::cpu {

// Calls f(o, other, count) for all rows of W, two at a time that lie far apart: where
// `count` is 1 there is no other row and `other` equals o. Threads take chunks as they come free:
// enough bytes for the prefetcher to run, few enough that threads end together although one reads
// faster than another.
template <class F>
void parallel_row_pairs(const Tensor& weight, F&& f) {
  constexpr std::size_t chunk_bytes = std::size_t{512} << 10;
  const std::size_t row = bytes_of(weight.dtype(), static_cast<std::size_t>(weight.size(1)));
  const auto rows = static_cast<std::int64_t>(chunk_bytes / (row + 1)) + 2;
  parallel_chunks(weight.size(0), rows, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t half = (end - begin + 1) / 2;
    for (std::int64_t o = begin; o < begin + half; ++o) {
      const bool paired = o + half < end;  // the middle row of an odd chunk is not
      f(o, paired ? o + half : o, paired ? 2 : 1);
    }
  });
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
