// From a gate's logit to its decay, vectorised: the only exponentials of the recurrence.
//
//   g = logsigmoid(u) / temperature        keep = e^g        lose = 1 - e^g
//
// keep and lose each have full relative precision: lose where gates remember (g near 0), keep where
// they forget (1 - lose would leave nothing of it, and the gradient of the gate is proportional to
// it). Below e^-87, the end of the normal floats, exponentials are 0.
#if defined(METALA_ATTENTION_GATES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef METALA_ATTENTION_GATES_INL_H_
#undef METALA_ATTENTION_GATES_INL_H_
#else
#define METALA_ATTENTION_GATES_INL_H_
#endif

#include <hwy/highway.h>

#include "metala/device/cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metala::metala_attention::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using vector::HWY_NAMESPACE::Float;
using vector::HWY_NAMESPACE::Floats;

// value, and value - 1.
struct Exponential {
  Float value, minus_one;
};

// e^x for x <= 0: x = n ln 2 + r with |r| <= ln 2 / 2, and p = e^r - 1 by its series, whose next
// term is below a quarter ulp. Then e^x = 2^n (1 + p) and e^x - 1 = (2^n - 1) + 2^n p, in which
// nothing cancels: n = 0 leaves p, and for n < 0 the sum stays below -0.29.
//
// Series are summed in pairs of terms: half the latency, which is what these functions cost.
HWY_INLINE Exponential exponential(Float x) {
  const Floats d;
  const hn::RebindToSigned<Floats> integers;
  const auto one = hn::Set(d, 1.0f);
  const auto lowest = hn::Set(d, -87.0f);
  const auto clamped = hn::Max(lowest, x);  // in this order a NaN stays one
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum.
  const auto to_integer = hn::Set(d, 12582912.0f);
  const auto rounded = hn::MulAdd(clamped, hn::Set(d, 1.44269504f), to_integer);
  const auto n = hn::Sub(rounded, to_integer);
  const auto power = hn::BitCast(d, hn::Add(hn::ShiftLeft<23>(hn::BitCast(integers, rounded)),
                                            hn::BitCast(integers, one)));  // 2^n
  // ln 2 in two parts: the first has few enough bits that its multiples are exact.
  auto r = hn::NegMulAdd(n, hn::Set(d, 0.693145751953125f), clamped);
  r = hn::NegMulAdd(n, hn::Set(d, 1.42860677e-6f), r);
  const auto square = hn::Mul(r, r);
  const auto terms23 = hn::MulAdd(r, hn::Set(d, 1.0f / 6), hn::Set(d, 0.5f));
  const auto terms45 = hn::MulAdd(r, hn::Set(d, 1.0f / 120), hn::Set(d, 1.0f / 24));
  const auto terms67 = hn::MulAdd(r, hn::Set(d, 1.0f / 5040), hn::Set(d, 1.0f / 720));
  const auto tail = hn::MulAdd(square, hn::MulAdd(square, terms67, terms45), terms23);
  const auto p = hn::MulAdd(square, tail, r);
  return {hn::IfThenZeroElse(hn::Lt(x, lowest), hn::MulAdd(power, p, power)),
          hn::MulAdd(power, p, hn::Sub(power, one))};
}

// log(1 + e) for 0 <= e <= 1, as 2 artanh(e / (2 + e)): its argument is at most 1/3, and the terms
// are all positive. The first one left out is 1.4e-8 of the sum.
HWY_INLINE Float log_one_plus(Float e) {
  const Floats d;
  const auto s = hn::Div(e, hn::Add(e, hn::Set(d, 2.0f)));
  const auto z = hn::Mul(s, s);
  const auto square = hn::Mul(z, z);
  const auto terms01 = hn::MulAdd(z, hn::Set(d, 2.0f / 3), hn::Set(d, 2.0f));
  const auto terms23 = hn::MulAdd(z, hn::Set(d, 2.0f / 7), hn::Set(d, 2.0f / 5));
  const auto terms45 = hn::MulAdd(z, hn::Set(d, 2.0f / 11), hn::Set(d, 2.0f / 9));
  auto series = hn::MulAdd(square, hn::Set(d, 2.0f / 13), terms45);
  series = hn::MulAdd(square, hn::MulAdd(square, series, terms23), terms01);
  return hn::Mul(s, series);
}

// sigmoid(x) and sigmoid(-x), each to full precision, for every finite x.
struct Sigmoid {
  Float open, closed;
};

HWY_INLINE Sigmoid sigmoid(Float x) {
  const Floats d;
  const auto one = hn::Set(d, 1.0f);
  const auto e = exponential(hn::Neg(hn::Abs(x))).value;
  const auto larger = hn::Div(one, hn::Add(one, e));
  const auto smaller = hn::Mul(e, larger);
  const auto negative = hn::Lt(x, hn::Zero(d));
  return {hn::IfThenElse(negative, smaller, larger), hn::IfThenElse(negative, larger, smaller)};
}

// sigmoid(x) - 1/2 to full precision: near x = 0 the difference would cancel.
HWY_INLINE Float centred_sigmoid(Float x) {
  const Floats d;
  const auto half = hn::Set(d, 0.5f);
  const Exponential e = exponential(hn::Neg(hn::Abs(x)));
  const auto size =
      hn::Div(hn::Mul(half, hn::Neg(e.minus_one)), hn::Add(hn::Set(d, 1.0f), e.value));
  return hn::CopySign(size, x);
}

struct Gate {
  Float keep, lose;
  Float slope;  // dg/du = sigmoid(-u) / temperature
};

HWY_INLINE Gate gate(Float u, Float inverse_temperature) {
  const Floats d;
  const auto one = hn::Set(d, 1.0f);
  const auto e = exponential(hn::Neg(hn::Abs(u))).value;
  const auto log_sigmoid = hn::Sub(hn::Min(u, hn::Zero(d)), log_one_plus(e));
  const auto decay = exponential(hn::Mul(log_sigmoid, inverse_temperature));
  const auto open = hn::IfThenElse(hn::Lt(u, hn::Zero(d)), one, e);
  return {decay.value, hn::Neg(decay.minus_one),
          hn::Mul(hn::Div(open, hn::Add(one, e)), inverse_temperature)};
}

}  // namespace metala::metala_attention::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
