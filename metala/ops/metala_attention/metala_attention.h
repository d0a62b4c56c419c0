// MetaLA attention: the token mixer between its projections, over a ragged batch, with state.
//
// For each token t of a sequence and each head (its K channels of q, u, k, aug; D of v, z, o):
//
//   g[t] = logsigmoid(u[t]) / temperature      a = exp(g)          log decay g <= 0, decay a
//   k[t] = 1 - a[t]  (computed as -expm1(g)),  or a projected key given as `k`
//   S[t] = diag(a[t]) S[t-1] + k[t] v[t]^T                          S [K, D], S[-1] = before or 0
//   x[t] = (sum_i q[t,i] k[t,i] aug[i]) v[t]                                        augmentation
//   c[t] = scale * S[t]^T q[t] + sigmoid(x[t]) - 1/2                                the mixed value
//   o[t] = silu(z[t]) * LayerNorm_D(c[t])       no weight or bias, eps 1e-5; no z: only LayerNorm
//
// Decay: u [N, H*K] dynamic (a gate for each token), or fixed (`fixed_decay` [H*K], one gate for
// all tokens) or none (a = 1, which needs k). Without aug c is what is read alone. The half is not
// in the authors' code: LayerNorm does not see it, but values near 1/2 would be rounded as such.
// Bidirectional: the recurrence is also run right to left on the same q, a, k, v; both outputs are
// added before the augmentation; there is no state.
//
//   q, u, k         [N, H*K]       v, z, c, o   [N, H*D]      1 <= K, D <= 256
//   aug, fixed_decay [H*K]         before, after [B, H, K, D]
//   all f32 or all f64, or on a GPU token matrices bf16 and the rest f32; any row stride of the
//   token matrices
//
// Right for every finite gate: |u| up to 1e4 in any pattern gives finite, accurate results.
// `after` may be absent or the same memory as `before`. `mixed` receives c, which the backward pass
// needs; it may be absent when there is none. A sequence of no tokens copies its state.
// Work: about 4 K D flops a token and head forward. Error bounds: README, "Rounding".
// Throws Error naming the argument, the shape it has and the shape it needs.
// Source: Chou et al., NeurIPS 2024 (arXiv:2411.10741), and the authors' released code; README
// lists where they differ.
#pragma once

#include "metala/base/ragged.h"
#include "metala/base/tensor.h"
#include "metala/base/write.h"

namespace metala::metala_attention {

struct Options {
  std::int64_t heads = 1;
  double temperature = 16;
  double scale = 1;  // the model passes K^(-1/2) unless configured otherwise
  bool bidirectional = false;
};

// Inputs of both passes; an undefined tensor is absent. Exactly one of: u; fixed_decay; neither
// (no decay, k required).
struct Inputs {
  Tensor q, u, k, v, z;
  Tensor aug, fixed_decay;
  Tensor before;
};

// Gradients to add to, one for each input; undefined ones are not computed. Those of token matrices
// may be uninitialised, and are then all written rather than added to.
struct Gradients {
  Tensor q, u, k, v, z;
  Tensor aug, fixed_decay;
  Tensor before;
  Write tokens = Write::accumulate;
  // On a GPU, if defined: becomes o again, found from mixed. It may be do_'s memory.
  Tensor o = {};
};

// For code that only adds: token gradients that are to be overwritten become zero.
Gradients prepared(const Gradients&);

// `states`, of states_shape, bf16, may be absent: what the forward pass can leave to the backward
// pass, which else finds it again. No elements where it has no use for it: on a CPU, for instance.
Shape states_shape(const Options&, const Inputs&, Offsets offsets);

void forward(const Options&, const Inputs&, Offsets offsets, Tensor o, Tensor mixed, Tensor after,
             Tensor states = {});

// How states pass through sequences: after = diag(decay) before + added.
//   added [B, H, K, D]: the final states from states of zero     decay [B, H, K]: products of a
// Of the inputs it reads u, fixed_decay, k and v; before must be absent. One direction. A GPU needs
// `room`, like v and lost afterwards.
void transition(const Options&, const Inputs&, Offsets offsets, Tensor added, Tensor decay,
                Tensor room = {});

// do_ [N, H*D] and dafter [B, H, K, D] (may be absent) are the gradients of o and of the final
// state; mixed and states are what the forward pass wrote. Where the gradient of `before` alone is
// asked for, it costs about a quarter.
void backward(const Options&, const Inputs&, Offsets offsets, const Tensor& mixed,
              const Tensor& do_, const Tensor& dafter, const Gradients&, const Tensor& states = {});

}  // namespace metala::metala_attention
