// What happens to one token's mixed value, alone: the augmentation, LayerNorm, the gate silu(z).
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
#include "metala/ops/metala_attention/metala_attention_head.h"

HWY_BEFORE_NAMESPACE();
namespace metala::metala_attention::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using vector::HWY_NAMESPACE::Float;
using vector::HWY_NAMESPACE::Floats;
using vector::HWY_NAMESPACE::for_lanes;
using vector::HWY_NAMESPACE::sum;
using vector::HWY_NAMESPACE::sum_of;

constexpr float norm_epsilon = 1e-5f;

// sum_i q_i k_i aug_i
HWY_INLINE float augmentation_score(const Head<float>& h, const float* q, const float* k) {
  auto total = hn::Zero(Floats());
  for_lanes(static_cast<std::size_t>(h.key_width), [&](auto lanes) {
    total = hn::MulAdd(hn::Mul(lanes.load(q), lanes.load(k)), lanes.load(h.aug), total);
  });
  return sum_of(total);
}

struct RowNorm {
  Float mean, correction, inverse_deviation;
  HWY_INLINE Float operator()(Float c) const {
    return hn::Mul(hn::Sub(hn::Sub(c, mean), correction), inverse_deviation);
  }
};

// The augmentation puts every mixed value near a half, with deviations that may be small: there the
// rounding of the mean itself would show. The centred values are exact, so their own mean tells
// what the first one missed.
HWY_INLINE RowNorm row_norm(const float* c, std::size_t width) {
  const Floats d;
  const float share = 1 / static_cast<float>(width);
  const auto mean = hn::Set(d, sum(c, width) * share);
  auto rest = hn::Zero(d);
  auto squares = hn::Zero(d);
  for_lanes(width, [&](auto lanes) {
    const auto centred = lanes.keep(hn::Sub(lanes.load(c), mean));
    rest = hn::Add(rest, centred);
    squares = hn::MulAdd(centred, centred, squares);
  });
  const float correction = sum_of(rest) * share;
  const float variance = sum_of(squares) * share - correction * correction;
  return {mean, hn::Set(d, correction), hn::Set(d, 1 / std::sqrt(variance + norm_epsilon))};
}

// From scale S^T q in `c` to the mixed value there, and to the output. t is the head's token.
HWY_INLINE void finish(const Head<float>& h, const HeadOutputs<float>& out, std::int64_t t,
                       const float* q, const float* k, float* c) {
  const Floats d;
  const auto width = static_cast<std::size_t>(h.value_width);
  if (h.aug != nullptr) {
    const auto score = hn::Set(d, augmentation_score(h, q, k));
    const float* v = h.v[t];
    for_lanes(width, [&](auto lanes) {
      lanes.store(hn::Add(lanes.load(c), sigmoid(hn::Mul(score, lanes.load(v))).open), c);
    });
  }
  const RowNorm norm = row_norm(c, width);
  for_lanes(width, [&](auto lanes) {
    const auto mixed = lanes.load(c);
    auto y = norm(mixed);
    if (h.z) {
      const auto z = lanes.load(h.z[t]);
      y = hn::Mul(y, hn::Mul(z, sigmoid(z).open));
    }
    lanes.store(y, out.o[t]);
    if (out.mixed) lanes.store(mixed, out.mixed[t]);
  });
}

// The gradient of the mixed value into dc, from that of the output; z's is added where wanted.
HWY_INLINE void backward_norm(const Head<float>& h, const HeadGradients<float>& d_, std::int64_t t,
                              bool with_z, float* dc) {
  const Floats d;
  const auto width = static_cast<std::size_t>(h.value_width);
  const auto one = hn::Set(d, 1.0f);
  const float* c = d_.mixed[t];
  const RowNorm norm = row_norm(c, width);
  auto total = hn::Zero(d);
  auto along = hn::Zero(d);
  for_lanes(width, [&](auto lanes) {
    const auto y = norm(lanes.load(c));
    auto dy = lanes.load(d_.o[t]);
    if (h.z) {
      const auto z = lanes.load(h.z[t]);
      const Sigmoid gate = sigmoid(z);
      if (with_z) {
        // silu'(z) = sigmoid(z) (1 + z sigmoid(-z))
        const auto slope = hn::Mul(gate.open, hn::MulAdd(z, gate.closed, one));
        lanes.store(hn::MulAdd(hn::Mul(dy, y), slope, lanes.load(d_.z[t])), d_.z[t]);
      }
      dy = hn::Mul(dy, hn::Mul(z, gate.open));
    }
    total = hn::Add(total, dy);
    along = hn::MulAdd(dy, y, along);
    lanes.store(dy, dc);
  });
  const float share = 1 / static_cast<float>(width);
  const auto mean = hn::Set(d, sum_of(total) * share);
  const auto slant = hn::Set(d, sum_of(along) * share);
  for_lanes(width, [&](auto lanes) {
    const auto centred = hn::NegMulAdd(norm(lanes.load(c)), slant, hn::Sub(lanes.load(dc), mean));
    lanes.store(hn::Mul(centred, norm.inverse_deviation), dc);
  });
}

// Adds the augmentation's share to dv; returns the gradient of the score.
HWY_INLINE float backward_augmentation(float score, const float* v, std::size_t width,
                                       const float* dc, float* dv) {
  const Floats d;
  const auto s = hn::Set(d, score);
  auto dscore = hn::Zero(d);
  for_lanes(width, [&](auto lanes) {
    const auto value = lanes.load(v);
    const Sigmoid p = sigmoid(hn::Mul(s, value));
    const auto r = hn::Mul(lanes.load(dc), hn::Mul(p.open, p.closed));
    dscore = hn::MulAdd(r, value, dscore);
    lanes.store(hn::MulAdd(r, s, lanes.load(dv)), dv);
  });
  return sum_of(dscore);
}

}  // namespace metala::metala_attention::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
