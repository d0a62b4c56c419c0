// The chunk forms for widths that they are not compiled for: heads are copied into rows of the next
// wider ones, filled up with zeros. A channel without a query is never read, a column of zeros
// stays zero, and neither has a gradient.
#pragma once

#include "metala/ops/metala_attention/metala_attention.h"

namespace metala::metala_attention::cuda {

// Whether it takes these inputs: as fits_chunks (metala_attention_chunk_cuda.h), K up to 128, D up
// to 256, whatever their rows' addresses.
bool fits_padded(const Options&, const Inputs&);

// As forward_in_chunks, but for the states, and as backward with everything that is local to a
// token.
void forward_padded(const Options&, const Inputs&, Offsets offsets, const Tensor& o,
                    const Tensor& after);
void backward_padded(const Options&, const Inputs&, Offsets offsets, const Tensor& mixed,
                     const Tensor& do_, const Tensor& dafter, const Gradients& to);

}  // namespace metala::metala_attention::cuda
