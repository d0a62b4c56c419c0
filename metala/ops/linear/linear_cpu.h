// The fast forms, picked by linear.cpp. Arguments are checked before they come here.
#pragma once

#include "metala/base/tensor.h"

namespace metala::linear::cpu {

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
