// The walks of the chunk forms with rows made once, for K 128, D 256 on compute capability 9.0.
#pragma once

#include "metala/ops/metala_attention/metala_attention_place.cuh"
#include "metala/ops/metala_attention/metala_attention_segments.cuh"

namespace metala::metala_attention::cuda {

// Whether the pipeline takes walks of this size on the current device; `values` [N, H * D].
bool fits_pipeline(Size size, const Tensor& values);

// As Pass::outputs over all segments, or Pass::states_back; values are p.v. The states of `places`
// chunks (chunk_places) go to p.chunk_states, if defined.
void walk_in_pipeline(const Problem& p, const Tensor& values, std::int64_t places, bool backwards,
                      cudaStream_t stream);

}  // namespace metala::metala_attention::cuda
