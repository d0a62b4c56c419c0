// The ops as functions on variables: each computes its op's forward pass and, on a recording tape,
// records its backward pass. The mathematics and shapes are in the ops' own headers.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "metala/autograd/tape.h"
#include "metala/base/ragged.h"
#include "metala/ops/cross_entropy/cross_entropy.h"
#include "metala/ops/dropout/dropout.h"
#include "metala/ops/glu/glu.h"
#include "metala/ops/metala_attention/metala_attention.h"

namespace metala::functions {

// ids, offsets and labels must outlive the tape's backward pass.
Variable embedding(Tape&, Ids ids, const Variable& table, double scale, std::int32_t frozen_id);

Variable rms_norm(Tape&, const Variable& x, double eps);
Variable layer_norm(Tape&, const Variable& x, const Variable& weight, const Variable& bias,
                    double eps);

Variable linear(Tape&, const Variable& x, const Variable& weight, const Variable& bias = {});

// Several linear maps of one x. Where the weights lie one after the other in memory, and their
// gradients too, they are one product, there and back, and the results are slices of its columns;
// elsewhere a CPU's threads share the rows of all weights as if they were one.
struct Projection {
  Variable weight, bias;
};
std::vector<Variable> linear(Tape&, const Variable& x, const std::vector<Projection>&);

// residual + x W^T + b, and residual + x. A tape that only computes adds into the residual's own
// memory, so that a pass through all layers needs the memory of one; so does one that records where
// the residual is spent: nobody reads its value any more, no backward pass either.
enum class Residual { kept, spent };
Variable add_linear(Tape&, const Variable& residual, const Variable& x, const Variable& weight,
                    const Variable& bias = {}, Residual = Residual::kept);
Variable add(Tape&, const Variable& residual, const Variable& x);

Variable glu(Tape&, glu::Activation, const Variable& a, const Variable& b);

Variable dropout(Tape&, const dropout::Mask&, const Variable& x, const dropout::Rows& = {});

// A state that goes into an op and one that comes out. Either may be absent. `after` is written
// (and is intermediate or constant); it may share memory with `before` on a computing tape.
struct Carried {
  Variable before;
  Variable after;
};

Variable short_conv(Tape&, const Variable& x, const Variable& weight, Offsets offsets,
                    const Carried&);

struct AttentionInputs {
  Variable q, u, k, v, z;
  Variable aug, fixed_decay;
};
Variable metala_attention(Tape&, const metala_attention::Options&, const AttentionInputs&,
                          Offsets offsets, const Carried&);

// Pairs of the functions here whose value in between is needed again only for the gradient of a
// weight. On a GPU, where memory is dearer than time, it is given back and found again on the way
// back, as its sources pass anyway.
struct Onto {
  Variable residual, weight, bias;
  Residual fate = Residual::kept;
};
Variable add_glu_linear(Tape&, const Onto&, glu::Activation, const Variable& a, const Variable& b);
Variable add_attention_linear(Tape&, const Onto&, const metala_attention::Options&,
                              const AttentionInputs&, Offsets offsets, const Carried&);
std::vector<Variable> short_conv_linear(Tape&, const Variable& x, const Variable& taps,
                                        Offsets offsets, const Carried&,
                                        const std::vector<Projection>&);

// Adds the loss to `sums` (cross_entropy.h). On a recording tape the gradients of `scale` * loss
// with respect to x and weight are computed at once and this must be the last function: backward()
// starts from it.
void cross_entropy(Tape&, const Variable& x, const Variable& weight, Ids labels, double scale,
                   const Tensor& sums);

// f(x), whose gradients in between are given back to the arena as soon as the backward pass has
// gone through f: a pass through all layers needs the gradients of one. f must end by adding onto
// x, so that the gradient of x lies where that of the result did.
Variable scoped(Tape&, const Variable& x, const std::function<Variable(Tape&, const Variable&)>& f);

// f(x) without keeping what f computes in between: the backward pass runs f again. f must give the
// same values each time and, on a computing tape, return x's own memory (as blocks that end in
// `add` or `add_linear` on x do).
Variable recomputed(Tape&, const Variable& x,
                    const std::function<Variable(Tape&, const Variable&)>& f);

}  // namespace metala::functions
