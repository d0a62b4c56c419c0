// Short causal depthwise convolution with SiLU, over a ragged batch, with state.
//
//   c[t,i] = sum_{j=0..W-1} w[i,j] x[t-(W-1)+j, i]            y = c sigmoid(c)
//
// Tap W-1 multiplies the current token. Inputs before a sequence's first token come from `before`,
// zero when it is absent. State: the last W inputs of each sequence and channel, oldest first,
// zero-padded on the left ([d, W] a sequence, as in the released code's cache; the next token
// reads the last W-1 of them).
//
//   x, y, dy, dx [N, d]   w, dw [d, W], 1 <= W <= 16   before, after, dbefore, dafter [B, d, W]
//   all f32 or all f64, or on a GPU x, y, dy, dx bf16 and the rest f32; any row stride of x, y, dy,
//   dx; states and w contiguous
//
// `after` may be absent or the same memory as `before` (then it is updated in place). A sequence
// of no tokens copies its state. Backward: dx (unless to be
// overwritten), dw, dbefore are added to; dafter is the gradient of
// the final state; dafter, dbefore may be absent; before must be what the forward pass saw.
// Throws Error naming the argument, the shape it has and the shape it needs.
#pragma once

#include "metala/base/ragged.h"
#include "metala/base/tensor.h"
#include "metala/base/write.h"

namespace metala::short_conv {

void forward(const Tensor& x, const Tensor& weight, Offsets offsets, const Tensor& before, Tensor y,
             Tensor after);

void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, Offsets offsets,
              const Tensor& before, const Tensor& dafter, Tensor dx, Tensor dweight, Tensor dbefore,
              Write dx_write = Write::accumulate);

}  // namespace metala::short_conv
