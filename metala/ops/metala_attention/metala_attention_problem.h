// Problems for this room's tests and benchmarks: seeded inputs for any size, option and gate.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "metala/harness/random_tensor.h"
#include "metala/ops/metala_attention/metala_attention.h"

namespace metala::metala_attention {

enum class Decay { dynamic, fixed, none };

// What the gates' logits look like.
enum class GatePattern {
  normal,       // N(0, 1)
  remembering,  // N(8, 2)
  forgetting,   // N(-200, 20): the state is renewed at every token
  one_cut,      // normal, one token in the middle at -1e4
  half_cut,     // every other token at -1e4
  all_cut,      // -1e4 throughout
  all_open,     // 1e4 throughout: nothing is lost, nothing enters through a tied key
  alternating   // -1e4, 1e4, -1e4, ...
};

inline constexpr GatePattern all_gate_patterns[] = {
    GatePattern::normal,   GatePattern::remembering, GatePattern::forgetting,
    GatePattern::one_cut,  GatePattern::half_cut,    GatePattern::all_cut,
    GatePattern::all_open, GatePattern::alternating};

struct Problem {
  std::vector<std::int64_t> lengths = {7};
  std::int64_t heads = 2, key_width = 4, value_width = 6;
  Decay decay = Decay::dynamic;
  bool tied = true, augmented = true, gated = true, bidirectional = false;
  bool carried = true;  // starts from a state, and the final state matters
  GatePattern gates = GatePattern::normal;
  double temperature = 16;
  std::uint64_t seed = 1;

  std::int64_t tokens() const {
    std::int64_t n = 0;
    for (const auto length : lengths) n += length;
    return n;
  }
  std::int64_t batch() const { return static_cast<std::int64_t>(lengths.size()); }
  std::vector<std::int64_t> offsets() const {
    std::vector<std::int64_t> at = {0};
    for (const auto length : lengths) at.push_back(at.back() + length);
    return at;
  }
  Options options() const {
    return {heads, temperature, 1 / std::sqrt(static_cast<double>(key_width)), bidirectional};
  }
  Shape key_rows() const { return {tokens(), heads * key_width}; }
  Shape value_rows() const { return {tokens(), heads * value_width}; }
  Shape state() const { return {batch(), heads, key_width, value_width}; }
  std::string text() const {
    return fmt::format("lengths {}, {} heads, K {}, D {}, decay {}, {}{}{}{}{}, gates {}, seed {}",
                       fmt::join(lengths, " "), heads, key_width, value_width,
                       static_cast<int>(decay), tied ? "tied" : "projected",
                       augmented ? ", augmented" : "", gated ? ", gated" : "",
                       bidirectional ? ", bidirectional" : "", carried ? ", carried" : "",
                       static_cast<int>(gates), seed);
  }
};

inline Tensor gate_logits(const Problem& p, Shape shape, DType type) {
  const double mean = p.gates == GatePattern::forgetting    ? -200
                      : p.gates == GatePattern::remembering ? 8
                                                            : 0;
  const double deviation = p.gates == GatePattern::forgetting    ? 20
                           : p.gates == GatePattern::remembering ? 2
                                                                 : 1;
  Tensor u = harness::random_normal(shape, type, p.seed + 2, deviation, mean);
  const auto width = shape[shape.rank() - 1];
  for (std::int64_t i = 0; i < u.count(); ++i) {
    const auto t = i / width;
    const auto n = u.count() / width;
    const bool odd = t % 2 == 1;
    const double far = 1e4;
    if (p.gates == GatePattern::one_cut && t == n / 2) harness::set(u, i, -far);
    if (p.gates == GatePattern::half_cut && odd) harness::set(u, i, -far);
    if (p.gates == GatePattern::all_cut) harness::set(u, i, -far);
    if (p.gates == GatePattern::all_open) harness::set(u, i, far);
    if (p.gates == GatePattern::alternating) harness::set(u, i, odd ? far : -far);
  }
  return u;
}

inline Inputs inputs_of(const Problem& p, DType type = DType::f32) {
  using harness::random_normal;
  Inputs in;
  const Shape channels = {p.heads * p.key_width};
  in.q = random_normal(p.key_rows(), type, p.seed + 1);
  if (p.decay == Decay::dynamic) in.u = gate_logits(p, p.key_rows(), type);
  if (p.decay == Decay::fixed) in.fixed_decay = gate_logits(p, channels, type);
  if (!p.tied || p.decay == Decay::none) in.k = random_normal(p.key_rows(), type, p.seed + 3, 0.5);
  in.v = random_normal(p.value_rows(), type, p.seed + 4);
  if (p.gated) in.z = random_normal(p.value_rows(), type, p.seed + 5);
  if (p.augmented) in.aug = random_normal(channels, type, p.seed + 6);
  if (p.carried && !p.bidirectional) in.before = random_normal(p.state(), type, p.seed + 7);
  return in;
}

inline Inputs cast(const Inputs& in, DType type) {
  const auto to = [type](const Tensor& t) { return t.defined() ? t.cast(type) : t; };
  return {to(in.q), to(in.u),   to(in.k),           to(in.v),
          to(in.z), to(in.aug), to(in.fixed_decay), to(in.before)};
}

// A state that begins empty and takes in little: mixed values, augmented, deviate from one another
// by a hundred-thousandth of what the augmentation's sigmoid comes to.
inline Problem holding_little(std::int64_t key_width, std::int64_t value_width) {
  return {.lengths = {20, 3},
          .key_width = key_width,
          .value_width = value_width,
          .carried = false,
          .gates = GatePattern::remembering};
}

struct Result {
  Tensor o, mixed, after;
};

// Outputs start as NaN, so that what is left unwritten shows.
inline Result blank_result(const Problem& p, DType type) {
  Result r = {harness::poisoned(p.value_rows(), type), harness::poisoned(p.value_rows(), type), {}};
  if (!p.bidirectional) r.after = harness::poisoned(p.state(), type);
  return r;
}

inline Result run_forward(const Problem& p, const Inputs& in) {
  const Result r = blank_result(p, in.q.dtype());
  forward(p.options(), in, p.offsets(), r.o, r.mixed, r.after);
  return r;
}

// A gradient for each input, all starting from `start`, with their names.
inline Gradients gradients_like(const Problem& p, const Inputs& in, double start = 0) {
  const auto like = [&](const Tensor& t) {
    return t.defined() ? harness::filled(t.shape(), t.dtype(), start) : Tensor();
  };
  Gradients to = {like(in.q), like(in.u),   like(in.k),           like(in.v),
                  like(in.z), like(in.aug), like(in.fixed_decay), {}};
  if (!p.bidirectional) to.before = harness::filled(p.state(), in.q.dtype(), start);
  return to;
}

inline std::vector<std::pair<std::string, Tensor>> named(const Gradients& g) {
  return {{"q", g.q},
          {"u", g.u},
          {"k", g.k},
          {"v", g.v},
          {"z", g.z},
          {"aug", g.aug},
          {"fixed_decay", g.fixed_decay},
          {"before", g.before}};
}

// Random gradients of the output and of the final state.
struct Cotangents {
  Tensor o, after;
};

inline Cotangents cotangents_of(const Problem& p, DType type) {
  Cotangents c = {harness::random_normal(p.value_rows(), type, p.seed + 8), {}};
  if (p.carried && !p.bidirectional) {
    c.after = harness::random_normal(p.state(), type, p.seed + 9);
  }
  return c;
}

inline Gradients run_backward(const Problem& p, const Inputs& in, const Tensor& mixed,
                              double start = 0) {
  const Cotangents c = cotangents_of(p, in.q.dtype());
  const Gradients to = gradients_like(p, in, start);
  backward(p.options(), in, p.offsets(), mixed, c.o, c.after, to);
  return to;
}

}  // namespace metala::metala_attention
