// On the GPU, what is local to a token (output gate, LayerNorm, augmentation), backwards.
#pragma once

#include "metala/ops/metala_attention/metala_attention.h"

namespace metala::metala_attention::cuda {

// From the gradient of o to that of c before the norm: dmixed [N, H * D] in the inputs' type,
// written. To o, if wanted, what the forward pass gave. To the gradient of z, and the
// augmentation's share to that of v (if overwritten, v's is written whatever the share is); dscore
// [N, H], with augmentation only: the gradient of its scores. Enqueued on the stream of the inputs'
// device.
void backward_local(const Options&, const Inputs&, Offsets offsets, const Tensor& mixed,
                    const Tensor& do_, void* dmixed, float* dscore, const Gradients& to);

}  // namespace metala::metala_attention::cuda
