// What happens to a token's mixed value, alone: the augmentation, LayerNorm, the gate silu(z).
//
// Every pass runs over all tokens of a block before the next begins: the sums that end a row then
// overlap with the rows that follow, where one token's passes would each wait for the last.
#if defined(METALA_ATTENTION_LOCAL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef METALA_ATTENTION_LOCAL_INL_H_
#undef METALA_ATTENTION_LOCAL_INL_H_
#else
#define METALA_ATTENTION_LOCAL_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>

#include "metala/device/cpu/vector-inl.h"
#include "metala/ops/metala_attention/metala_attention_gates-inl.h"
#include "metala/ops/metala_attention/metala_attention_scratch.h"

HWY_BEFORE_NAMESPACE();
namespace metala::metala_attention::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using vector::HWY_NAMESPACE::Float;
using vector::HWY_NAMESPACE::Floats;
using vector::HWY_NAMESPACE::for_lanes;
using vector::HWY_NAMESPACE::sum;
using vector::HWY_NAMESPACE::sum_of;

constexpr float norm_epsilon = 1e-5f;

// Tokens [first, first + count) of a head, at most a block of them, as rows of their own.
struct LocalRows {
  std::int64_t first, count;
  Rows<const float> q, k, v;
};

// scores[t] = sum_i q_i k_i aug_i
HWY_INLINE void augmentation_scores(const Head<float>& h, const LocalRows& rows, float* scores) {
  for (std::int64_t t = 0; t < rows.count; ++t) {
    auto total = hn::Zero(Floats());
    for_lanes(static_cast<std::size_t>(h.key_width), [&](auto lanes) {
      total = hn::MulAdd(hn::Mul(lanes.load(rows.q[t]), lanes.load(rows.k[t])), lanes.load(h.aug),
                         total);
    });
    scores[t] = sum_of(total);
  }
}

// The augmentation puts every mixed value near a half, with deviations that may be small: there the
// rounding of the mean itself would show. The centred values are exact, so their own mean tells
// what the first one missed.
struct RowNorms {
  float mean[block_tokens], correction[block_tokens], inverse_deviation[block_tokens];

  RowNorms(Rows<const float> c, std::int64_t count, std::size_t width) {
    const float share = 1 / static_cast<float>(width);
    for (std::int64_t t = 0; t < count; ++t) mean[t] = sum(c[t], width) * share;
    for (std::int64_t t = 0; t < count; ++t) {
      const auto centre = hn::Set(Floats(), mean[t]);
      auto rest = hn::Zero(Floats());
      auto squares = hn::Zero(Floats());
      for_lanes(width, [&](auto lanes) {
        const auto centred = lanes.keep(hn::Sub(lanes.load(c[t]), centre));
        rest = hn::Add(rest, centred);
        squares = hn::MulAdd(centred, centred, squares);
      });
      correction[t] = sum_of(rest) * share;
      const float variance = sum_of(squares) * share - correction[t] * correction[t];
      inverse_deviation[t] = 1 / std::sqrt(variance + norm_epsilon);
    }
  }

  // The normalised value.
  HWY_INLINE Float operator()(std::int64_t t, Float c) const {
    const Floats d;
    const auto centred = hn::Sub(hn::Sub(c, hn::Set(d, mean[t])), hn::Set(d, correction[t]));
    return hn::Mul(centred, hn::Set(d, inverse_deviation[t]));
  }
};

// From scale S^T q in the rows of `c` to the mixed values there, and to the outputs.
inline HWY_NOINLINE void finish(const Head<float>& h, const HeadOutputs<float>& out,
                                const LocalRows& rows, Rows<float> c) {
  const auto width = static_cast<std::size_t>(h.value_width);
  if (h.aug != nullptr) {
    float scores[block_tokens];
    augmentation_scores(h, rows, scores);
    for (std::int64_t t = 0; t < rows.count; ++t) {
      const auto score = hn::Set(Floats(), scores[t]);
      for_lanes(width, [&, v = rows.v[t], mixed = c[t]](auto lanes) {
        const auto term = centred_sigmoid(hn::Mul(score, lanes.load(v)));
        lanes.store(hn::Add(lanes.load(mixed), term), mixed);
      });
    }
  }
  const RowNorms norms(read_only(c), rows.count, width);
  for (std::int64_t t = 0; t < rows.count; ++t) {
    const std::int64_t token = rows.first + t;
    const float* z_row = h.z ? h.z[token] : nullptr;
    float* mixed_row = out.mixed ? out.mixed[token] : nullptr;
    for_lanes(width, [&, mixed = c[t], o = out.o[token]](auto lanes) {
      const auto value = lanes.load(mixed);
      auto y = norms(t, value);
      if (z_row != nullptr) {
        const auto z = lanes.load(z_row);
        y = hn::Mul(y, hn::Mul(z, sigmoid(z).open));
      }
      lanes.store(y, o);
      if (mixed_row != nullptr) lanes.store(value, mixed_row);
    });
  }
}

// The gradient of the mixed values into dc, from that of the outputs; z's is added if `with_z`.
inline HWY_NOINLINE void backward_norm(const Head<float>& h, const HeadGradients<float>& gradients,
                                       const LocalRows& rows, bool with_z, Rows<float> dc) {
  const Floats d;
  const auto width = static_cast<std::size_t>(h.value_width);
  const float share = 1 / static_cast<float>(width);
  const auto first = rows.first;
  const RowNorms norms({gradients.mixed[first], gradients.mixed.stride}, rows.count, width);
  float mean[block_tokens];
  float slant[block_tokens];  // the mean of dy y
  for (std::int64_t t = 0; t < rows.count; ++t) {
    const float* c = gradients.mixed[first + t];
    const float* dout = gradients.o[first + t];
    const float* z_row = h.z ? h.z[first + t] : nullptr;
    float* dz = with_z ? gradients.z[first + t] : nullptr;
    auto total = hn::Zero(d);
    auto along = hn::Zero(d);
    for_lanes(width, [&, dc_row = dc[t]](auto lanes) {
      const auto y = norms(t, lanes.load(c));
      auto dy = lanes.load(dout);
      if (z_row != nullptr) {
        const auto z = lanes.load(z_row);
        const Sigmoid gate = sigmoid(z);
        if (dz != nullptr) {
          // silu'(z) = sigmoid(z) (1 + z sigmoid(-z))
          const auto slope = hn::Mul(gate.open, hn::MulAdd(z, gate.closed, hn::Set(d, 1.0f)));
          lanes.store(hn::MulAdd(hn::Mul(dy, y), slope, lanes.load(dz)), dz);
        }
        dy = hn::Mul(dy, hn::Mul(z, gate.open));
      }
      total = hn::Add(total, dy);
      along = hn::MulAdd(dy, y, along);
      lanes.store(dy, dc_row);
    });
    mean[t] = sum_of(total) * share;
    slant[t] = sum_of(along) * share;
  }
  for (std::int64_t t = 0; t < rows.count; ++t) {
    const float* c = gradients.mixed[first + t];
    for_lanes(width, [&, dc_row = dc[t]](auto lanes) {
      const auto level = hn::Sub(lanes.load(dc_row), hn::Set(d, mean[t]));
      const auto centred = hn::NegMulAdd(norms(t, lanes.load(c)), hn::Set(d, slant[t]), level);
      lanes.store(hn::Mul(centred, hn::Set(d, norms.inverse_deviation[t])), dc_row);
    });
  }
}

// dv and dscores: the augmentation's shares.
inline HWY_NOINLINE void backward_augmentation(const Head<float>& h, const LocalRows& rows,
                                               Rows<const float> dc, Rows<float> dv,
                                               float* dscores) {
  const Floats d;
  float scores[block_tokens];
  augmentation_scores(h, rows, scores);
  for (std::int64_t t = 0; t < rows.count; ++t) {
    const auto score = hn::Set(d, scores[t]);
    auto dscore = hn::Zero(d);
    for_lanes(static_cast<std::size_t>(h.value_width),
              [&, v = rows.v[t], dc_row = dc[t], dv_row = dv[t]](auto lanes) {
                const auto value = lanes.load(v);
                const Sigmoid p = sigmoid(hn::Mul(score, value));
                const auto r = hn::Mul(lanes.load(dc_row), hn::Mul(p.open, p.closed));
                dscore = hn::MulAdd(r, value, dscore);
                lanes.store(hn::Mul(r, score), dv_row);
              });
    dscores[t] = sum_of(dscore);
  }
}

}  // namespace metala::metala_attention::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
