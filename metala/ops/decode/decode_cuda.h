// A decoding step on a GPU in few kernels: the model's operators for one token of each sequence,
// fused with their neighbours. The operators' own headers define them (rms_norm, layer_norm,
// short_conv, linear, glu, metala_attention); here they only share kernels.
//
//   x [N, d] f32        the residual stream, N sequences
//   y, o, h bf16        what matrix products read
//   weights bf16 [out, in], rows end to end, 16-byte aligned, in a multiple of 32
//   everything else f32
//
// Products sum in float32, in an order that depends on the sizes and on the GPU's number of
// multiprocessors alone: the same inputs give the same bits. Arguments come checked, by the model.
#pragma once

#include <cstdint>
#include <span>

#include "metala/base/tensor.h"
#include "metala/ops/glu/glu.h"
#include "metala/ops/metala_attention/metala_attention.h"

namespace metala::decode::cuda {

// The root mean square norm, or LayerNorm where there is a weight [d] and a bias [d].
struct Norm {
  Tensor weight, bias;
  double eps = 1e-6;
};

// The short convolution with its SiLU: taps [d, W] and the last W inputs [N, d, W]; undefined:
// none.
struct Conv {
  Tensor taps, inputs;
};

// What a product reads: rows y, or norm and convolution of x, computed on the way by each block.
struct Rows {
  Tensor y;  // [N, in] bf16; undefined: of x
  Tensor x;
  Norm norm;
  Conv conv;
  Tensor normed;  // [N, in], written: norm(x), the convolution's next input; undefined without one
};

// How many sequences a product may take through `Rows::x`, and the widest x.
constexpr std::int64_t most_fused_rows = 2;
constexpr std::int64_t widest_fused = 2048;
constexpr std::int64_t widest = 8192;  // x of `normalise`

// x[n] = scale * table[ids[n]], table bf16 [V, d]; zeros where the id is negative.
void embed(const std::int32_t* ids, const Tensor& table, double scale, Tensor x);

// y = silu(conv(norm(x))), or norm(x) without a convolution; `normed` as in Rows.
void normalise(const Norm&, const Conv&, const Tensor& x, Tensor y, Tensor normed);

// x += norm(x).
void add_normalised(const Norm&, Tensor x);

// y [N, sum of out] f32 = rows times the weights, side by side.
void project(const Rows&, std::span<const Tensor> weights, Tensor y);

// h = act(rows W1^T + b1) * (rows W2^T + b2), h [N, out] bf16; without W2 only the first factor.
// `products` [N, out or 2 out] f32 is scratch. Not for the exp activation, which needs whole rows.
struct Gated {
  glu::Activation activation;
  Tensor weight1, bias1, weight2, bias2;
};
void project_gated(const Rows&, const Gated&, Tensor products, Tensor h);

// x += y W^T + bias.
void project_onto(const Tensor& y, const Tensor& weight, const Tensor& bias, Tensor x);

// One token of metala_attention for each sequence, or, where there are ids, for each whose id is
// not negative: q, u, k, v, z f32 [N, ...] with any row stride; z_bias [H * D] is added to z;
// in.before is advanced in place; o [N, H * D] bf16. D in a multiple of 4. Then `normed` moves into
// the convolution's inputs.
void attention_step(const metala_attention::Options&, const metala_attention::Inputs& in,
                    const Tensor& z_bias, const Conv&, const Tensor& normed,
                    const std::int32_t* ids, Tensor o);

// to[n] = from[n] where ids[n] is not negative; both [N, V] f32, rows end to end.
void copy_rows(const std::int32_t* ids, const Tensor& from, Tensor to);

}  // namespace metala::decode::cuda
