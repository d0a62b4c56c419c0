// Step form: one token after another, for decoding and short runs. Memory-bound: for every token
// the state is read and written once, and read out while it passes.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/metala_attention/metala_attention_step.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "metala/ops/metala_attention/metala_attention_block-inl.h"
#include "metala/ops/metala_attention/metala_attention_forms.h"
#include "metala/ops/metala_attention/metala_attention_local-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metala::metala_attention::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr std::size_t widest = 256;

// One token's channels; at most 5 KiB of the stack.
struct Token {
  float k[widest], stay[widest], change[widest];
  float q[widest];  // with the scale
  float mixed[widest];
};

void load_token(const Head<float>& h, std::int64_t t, Token& token) {
  const Floats d;
  const auto inverse_temperature = hn::Set(d, 1 / h.temperature);
  for_lanes(static_cast<std::size_t>(h.key_width), [&](auto lanes) {
    const Gate g = gate_at(h, t, lanes, inverse_temperature);
    const Passage across = passage(g.keep, g.lose);
    lanes.store(across.stay, token.stay);
    lanes.store(across.change, token.change);
    lanes.store(h.k ? lanes.load(h.k[t]) : g.lose, token.k);
    lanes.store(hn::Mul(lanes.load(h.q[t]), hn::Set(d, h.scale)), token.q);
  });
  std::memset(token.mixed, 0, static_cast<std::size_t>(h.value_width) * sizeof(float));
}

// A state comes from memory, and its rows are taken up in an order that the hardware's prefetchers
// do not follow: with this many rows on their way a step waits for bandwidth alone. The rows after
// a head's last are those of the head that its thread takes next.
constexpr std::int64_t rows_ahead = 16;
constexpr std::size_t line = 64 / sizeof(float);

// The first rows of a head, which nobody has fetched if its thread begins with it.
HWY_INLINE void prefetch_first_rows(const Head<float>& h) {
  for (std::int64_t i = 0; i < std::min(rows_ahead, h.key_width); ++i) {
    for (std::int64_t j = 0; j < h.value_width; j += line) hwy::Prefetch(h.before[i] + j);
  }
}

// Rows [i, i + rows) of the state take in v and are read out. Several rows share the loads of v and
// of the output's sums. As much as they hold is fetched from `ahead` on, if not null, a few lines
// at a time: in one burst the lines would wait for each other, and the rows' loads for them.
template <std::int64_t rows>
HWY_INLINE void pass_rows(const Head<float>& h, std::int64_t i, const float* v,
                          Rows<const float> before, Rows<float> after, const float* ahead,
                          Token& token) {
  const Floats d;
  for_lanes(static_cast<std::size_t>(h.value_width), [&](auto lanes) {
    if (ahead != nullptr) {
      const std::size_t floats = rows * hn::Lanes(d);
      for (std::size_t at = 0; at < floats; at += line) hwy::Prefetch(ahead + at);
      ahead += floats;
    }
    const auto value = lanes.load(v);
    auto mixed = lanes.load(token.mixed);
#pragma GCC unroll 4
    for (std::int64_t r = i; r < i + rows; ++r) {
      const auto past = lanes.load(before[r]);
      const auto addition =
          hn::MulAdd(hn::Set(d, token.change[r]), past, hn::Mul(hn::Set(d, token.k[r]), value));
      const auto state = hn::MulAdd(hn::Set(d, token.stay[r]), past, addition);
      lanes.store(state, after[r]);
      mixed = hn::MulAdd(hn::Set(d, token.q[r]), state, mixed);
    }
    lanes.store(mixed, token.mixed);
  });
}

void step_forward(const Head<float>& h, const HeadOutputs<float>& out, float* spare) {
  const Rows<float> state = out.after ? out.after : Rows<float>{spare, h.value_width};
  Rows<const float> before = h.before;
  if (!before || h.tokens == 0) {
    const auto bytes = static_cast<std::size_t>(h.value_width) * sizeof(float);
    for (std::int64_t i = 0; i < h.key_width; ++i) {
      if (!before) {
        std::memset(state[i], 0, bytes);
      } else if (state[i] != before[i]) {
        std::memcpy(state[i], before[i], bytes);
      }
    }
    before = read_only(state);
  } else {
    prefetch_first_rows(h);
  }
  Token token;
  for (std::int64_t t = 0; t < h.tokens; ++t) {
    load_token(h, t, token);
    std::int64_t i = 0;
    for (; i + 4 <= h.key_width; i += 4) {
      const float* ahead = t == 0 && h.before ? h.before[i + rows_ahead] : nullptr;
      pass_rows<4>(h, i, h.v[t], before, state, ahead, token);
    }
    for (; i < h.key_width; ++i) pass_rows<1>(h, i, h.v[t], before, state, nullptr, token);
    before = read_only(state);
    finish(h, out, {t, 1, {h.q[t], 0}, {token.k, 0}, {h.v[t], 0}}, {token.mixed, 0});
  }
}

}  // namespace metala::metala_attention::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::metala_attention::cpu {
HWY_EXPORT(step_forward);

void step_forward(const Head<float>& h, const HeadOutputs<float>& out, float* spare) {
  HWY_DYNAMIC_DISPATCH(step_forward)(h, out, spare);
}

}  // namespace metala::metala_attention::cpu
#endif
