// The CUDA form for bf16 and the released sizes, on tensor cores, 64 tokens at a time: the
// recurrence alone, o = scale S^T q.
#pragma once

#include "metala/ops/metala_attention/metala_attention.h"

namespace metala::metala_attention::cuda {

// Whether the form takes these inputs: bf16, a dynamic tied decay, (K, D) one of (32, 32), (64,
// 64), (64, 128), (128, 128), (128, 256), rows and addresses multiples of 16 bytes; and the outputs
// or gradients beside them.
bool fits_chunks(const Options&, const Inputs&, const Tensor& o);
bool fits_chunks(const Options&, const Inputs&, const Gradients& to);

// Writes o before augmentation and norm, and the state after. Sequences are cut into segments when
// there are too few heads to fill the GPU: then their states are found first, side by side.
void forward_in_chunks(const Options&, const Inputs&, Offsets offsets, const Tensor& o,
                       const Tensor& after);

// The whole gradient, with what is local to a token; without `mixed` that of the recurrence alone,
// and do_ (rows without gaps) is the gradient of c. Scratch memory: K D / 16 + 2 D bytes for each
// token and head, and little else.
void backward_in_chunks(const Options&, const Inputs&, Offsets offsets, const Tensor& mixed,
                        const Tensor& do_, const Tensor& dafter, const Gradients& to);

}  // namespace metala::metala_attention::cuda
