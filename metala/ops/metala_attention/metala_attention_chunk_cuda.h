// The CUDA form for bf16 and the released sizes, on tensor cores, 64 tokens at a time: the
// recurrence alone, o = scale S^T q.
#pragma once

#include <optional>

#include "metala/ops/metala_attention/metala_attention.h"

namespace metala::metala_attention::cuda {

// Whether the form takes these inputs: bf16, a dynamic tied decay, (K, D) one of (32, 32), (32, 64),
// (64, 64), (64, 128), (128, 128), (128, 256) for which the GPU has shared memory enough, rows and
// addresses multiples of 16 bytes; and the outputs or gradients beside them.
bool fits_chunks(const Options&, const Inputs&);
bool fits_chunks(const Options&, const Inputs&, const Tensor& o);
bool fits_chunks(const Options&, const Inputs&, const Gradients& to);

// Writes o before augmentation and norm, and the state after. Sequences are cut into segments when
// there are too few heads to fill the GPU: then their states are found first, side by side.
// `states` [chunk_states_shape], if defined: bf16, the state before every chunk.
void forward_in_chunks(const Options&, const Inputs&, Offsets offsets, const Tensor& o,
                       const Tensor& after, const Tensor& states);
Shape chunk_states_shape(const Options&, const Inputs&, Offsets offsets);

// What backward_local found: the gradients of the augmentation's scores, which pass some to q, u
// and aug, and a share of v's, to which the rest is added; or nothing.
struct LocalShares {
  std::optional<const float*> dscore = {};  // null: there is no augmentation
};

// The whole gradient, with what is local to a token; without `mixed` that of the recurrence alone,
// and do_ (rows without gaps) is the gradient of c, of which the caller may have found what is
// local to a token. Without the states of the forward pass they are found again. Scratch memory: K
// D / 16 + 2 D bytes for each token and head, and little else; with the states half of the first.
void backward_in_chunks(const Options&, const Inputs&, Offsets offsets, const Tensor& mixed,
                        const Tensor& do_, const Tensor& dafter, const Gradients& to,
                        const Tensor& states, const LocalShares& = {});

}  // namespace metala::metala_attention::cuda
