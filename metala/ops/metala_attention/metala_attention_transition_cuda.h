// The CUDA form of what parts of sequences tell each other. Arguments are checked before they come
// here; offsets must be mirrored on the GPU.
#pragma once

#include "metala/ops/metala_attention/metala_attention.h"

namespace metala::metala_attention::cuda {

// `room`, like v, is written.
void transition(const Options&, const Inputs&, Offsets offsets, const Tensor& added,
                const Tensor& decay, const Tensor& room);

// The gradient of `before` where no other is asked for and there is a short way; false where not.
bool backward_to_before(const Options&, const Inputs&, Offsets offsets, const Tensor& mixed,
                        const Tensor& do_, const Tensor& dafter, const Gradients& to);

}  // namespace metala::metala_attention::cuda
