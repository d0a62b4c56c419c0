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
HWY_INLINE Exponential exponential(Float x) {
  const Floats d;
  const hn::RebindToSigned<Floats> integers;
  const auto one = hn::Set(d, 1.0f);
  const auto lowest = hn::Set(d, -87.0f);
  const auto underflows = hn::Lt(x, lowest);
  const auto clamped = hn::Max(x, lowest);
  const auto n = hn::NearestInt(hn::Mul(clamped, hn::Set(d, 1.44269504f)));
  const auto steps = hn::ConvertTo(d, n);
  // ln 2 in two parts: the first has few enough bits that its multiples are exact.
  auto r = hn::NegMulAdd(steps, hn::Set(d, 0.693145751953125f), clamped);
  r = hn::NegMulAdd(steps, hn::Set(d, 1.42860677e-6f), r);
  auto tail = hn::Set(d, 1.0f / 5040);
  tail = hn::MulAdd(tail, r, hn::Set(d, 1.0f / 720));
  tail = hn::MulAdd(tail, r, hn::Set(d, 1.0f / 120));
  tail = hn::MulAdd(tail, r, hn::Set(d, 1.0f / 24));
  tail = hn::MulAdd(tail, r, hn::Set(d, 1.0f / 6));
  tail = hn::MulAdd(tail, r, hn::Set(d, 0.5f));
  const auto p = hn::MulAdd(hn::Mul(r, r), tail, r);
  const auto power = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(n, hn::Set(integers, 127))));
  return {hn::IfThenZeroElse(underflows, hn::MulAdd(power, p, power)),
          hn::IfThenElse(underflows, hn::Set(d, -1.0f), hn::MulAdd(power, p, hn::Sub(power, one)))};
}

// log(1 + e) for 0 <= e <= 1, as 2 artanh(e / (2 + e)): its argument is at most 1/3, and the terms
// are all positive. The first one left out is 1.4e-8 of the sum.
HWY_INLINE Float log_one_plus(Float e) {
  const Floats d;
  const auto s = hn::Div(e, hn::Add(e, hn::Set(d, 2.0f)));
  const auto square = hn::Mul(s, s);
  auto series = hn::Set(d, 2.0f / 13);
  series = hn::MulAdd(series, square, hn::Set(d, 2.0f / 11));
  series = hn::MulAdd(series, square, hn::Set(d, 2.0f / 9));
  series = hn::MulAdd(series, square, hn::Set(d, 2.0f / 7));
  series = hn::MulAdd(series, square, hn::Set(d, 2.0f / 5));
  series = hn::MulAdd(series, square, hn::Set(d, 2.0f / 3));
  series = hn::MulAdd(series, square, hn::Set(d, 2.0f));
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
