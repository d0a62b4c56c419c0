// Functions on sequences that lie in parts on several ranks: context parallelism for linear
// attention (LASP: Sun et al., arXiv:2404.02882, 2502.07563).
//
// Rank p of P holds the p-th part of every sequence of the batch. All else in the model is local to
// a token; two functions look back. What they need of the ranks before has a size that does not
// depend on the length of the parts:
//
//   short_conv         the last W inputs of the rank before; backwards, the gradients of those that
//                      the rank after has read
//   metala_attention   the state that the ranks before end in. A part passes a state on as
//                      S_out = decay S_in + added (metala_attention.h, transition): every rank
//                      gathers all (added, decay) and combines those before it into its true
//                      initial state. Backwards dS_in = decay dS_out + pulled, combined from the
//                      last rank, gives each rank the true gradient of its final state.
//
// The forward and backward passes of the ops then run once, from the true state and gradient, so
// the result is that of one rank up to rounding. All ranks call these with the same number of
// sequences. A part shorter than W tokens must be followed by empty ones. On a GPU what passes between
// ranks is f32, whatever the activations.
#pragma once

#include "metala/autograd/functions.h"
#include "metala/distributed/communicator.h"

namespace metala::context_parallel {

Variable short_conv(Tape&, Communicator&, const Variable& x, const Variable& weight,
                    Offsets offsets);

Variable metala_attention(Tape&, Communicator&, const metala_attention::Options&,
                          const functions::AttentionInputs&, Offsets offsets);

}  // namespace metala::context_parallel
