// The fast forms for one head, dispatched to the instruction set of the machine.
#pragma once

#include "metala/ops/metala_attention/metala_attention_head.h"

namespace metala::metala_attention::cpu {

// `scratch` holds ForwardScratch, zeroed before its first use.
void chunk_forward(const Head<float>&, const HeadOutputs<float>&, float* scratch);

// The final state from a state of zero, and decay [K], the product of all tokens' decays.
// `scratch` holds ForwardScratch, zeroed before its first use.
void chunk_transition(const Head<float>&, Rows<float> added, float* decay, float* scratch);

// `scratch` holds BackwardScratch, zeroed before its first use; `states` has room for as many
// padded states as kept_states() says.
void chunk_backward(const Head<float>&, const HeadGradients<float>&, float* scratch, float* states);

// One token after another, the state in `after` (or `spare` [K, D] where there is none).
void step_forward(const Head<float>&, const HeadOutputs<float>&, float* spare);

}  // namespace metala::metala_attention::cpu
