// The CUDA form of what context_parallel.cpp does itself on the CPU: x, dx f32, bf16 or f16, states
// f32; offsets mirrored on the GPU.
#pragma once

#include "metala/base/ragged.h"
#include "metala/base/tensor.h"

namespace metala::context_parallel::cuda {

// state [B, d, W] = the last W rows of each sequence of x [N, d], oldest first, zero before them.
void take_last_inputs(const Tensor& x, Offsets offsets, const Tensor& state);
// The reverse: adds the state's elements to those rows of dx.
void add_last_gradients(const Tensor& state, Offsets offsets, const Tensor& dx);
// state [B, H, K, D] = decay [B, H, K] state + addition.
void pass_on(const Tensor& state, const Tensor& decay, const Tensor& addition);

}  // namespace metala::context_parallel::cuda
