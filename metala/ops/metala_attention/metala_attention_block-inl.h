// What forward and backward pass share: a block of up to 16 tokens taken into scratch, its decays,
// its scores, and the state's passage across it. README.md derives the formulas.
#if defined(METALA_ATTENTION_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef METALA_ATTENTION_BLOCK_INL_H_
#undef METALA_ATTENTION_BLOCK_INL_H_
#else
#define METALA_ATTENTION_BLOCK_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "metala/device/cpu/vector-inl.h"
#include "metala/ops/metala_attention/metala_attention_gates-inl.h"
#include "metala/ops/metala_attention/metala_attention_local-inl.h"
#include "metala/ops/metala_attention/metala_attention_product-inl.h"
#include "metala/ops/metala_attention/metala_attention_scratch.h"

HWY_BEFORE_NAMESPACE();
namespace metala::metala_attention::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using vector::HWY_NAMESPACE::for_lanes;
using vector::HWY_NAMESPACE::sum_of;

HWY_INLINE Gate gate_at(const Head<float>& h, std::int64_t t, auto lanes,
                        Float inverse_temperature) {
  const Floats d;
  if (!h.u) return {hn::Set(d, 1.0f), hn::Zero(d), hn::Zero(d)};
  return gate(lanes.load(h.u[t]), inverse_temperature);
}

// How a state crosses tokens that keep the share `keep` of it and lose `lose` = 1 - keep, both
// accurate: S <- stay S + (change S + additions). Where little is lost, the loss is taken off
// (stay 1, change -lose): 1 - lose would be rounded, and a long-lived state would drift. Where much
// is lost, what is kept is multiplied out (stay 0, change keep), so that forgetting is exact.
struct Passage {
  Float stay, change;
};

HWY_INLINE Passage passage(Float keep, Float lose) {
  const Floats d;
  const auto remembers = hn::Le(lose, hn::Set(d, 0.5f));
  return {hn::IfThenElseZero(remembers, hn::Set(d, 1.0f)),
          hn::IfThenElse(remembers, hn::Neg(lose), keep)};
}

// What load() prepares: for the state's passage only; also for what the tokens read; also for the
// gradients.
enum class Purpose { state, outputs, gradients };

// Takes tokens [first, first + 16) of the head, or as many as there are.
template <Purpose purpose>
HWY_NOINLINE void load(const Head<float>& h, std::int64_t first, Block& block) {
  constexpr bool reads = purpose != Purpose::state;
  constexpr bool differentiates = purpose == Purpose::gradients;
  const Floats d;
  const auto one = hn::Set(d, 1.0f);
  const auto inverse_temperature = hn::Set(d, 1 / h.temperature);
  const auto tokens = std::min<std::int64_t>(block_tokens, h.tokens - first);
  block.tokens = static_cast<std::size_t>(tokens);
  for_lanes(static_cast<std::size_t>(h.key_width), [&](auto lanes) {
    auto kept = one;
    auto lost = hn::Zero(d);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const Gate g = gate_at(h, first + t, lanes, inverse_temperature);
      kept = hn::Mul(kept, g.keep);
      lost = hn::NegMulAdd(g.lose, lost, hn::Add(lost, g.lose));  // 1 - (1 - lost)(1 - lose)
      lanes.store(h.k ? lanes.load(h.k[first + t]) : g.lose, block.k[t]);
      lanes.store(g.keep, block.keep[t]);
      if constexpr (reads) {
        const auto q = lanes.load(h.q[first + t]);
        lanes.store(q, block.q[t]);
        lanes.store(hn::Mul(q, kept), block.read[t]);
      }
      if constexpr (differentiates) {
        lanes.store(g.slope, block.slope[t]);
        lanes.store(kept, block.prefix[t]);
      }
    }
    const Passage across = passage(kept, lost);
    lanes.store(across.stay, block.stay);
    lanes.store(across.change, block.change);
    lanes.store(kept, block.total);
    kept = one;
    for (std::int64_t s = tokens - 1; s >= 0; --s) {
      if constexpr (differentiates) lanes.store(kept, block.suffix[s]);
      lanes.store(hn::Mul(lanes.load(block.k[s]), kept), block.write[s]);
      kept = hn::Mul(kept, lanes.load(block.keep[s]));
    }
  });
  const auto bytes = static_cast<std::size_t>(h.value_width) * sizeof(float);
  for (std::int64_t t = 0; t < tokens; ++t) std::memcpy(block.v[t], h.v[first + t], bytes);
}

// The block's rows as the local parts take them; `first` as in load().
inline LocalRows local_rows(const Block& block, std::int64_t first) {
  return {first, static_cast<std::int64_t>(block.tokens), read_only(block.q), read_only(block.k),
          read_only(block.v)};
}

// scores[t, s] = sum_i q_t k_s a_{s+1} .. a_t for s <= t, else 0. The products grow along t, so
// every factor is at most 1 whatever the gates are, and a decay of 0 needs no care.
inline HWY_NOINLINE void score(Block& block) {
  const Floats d;
  for (std::int64_t s = 0; s < static_cast<std::int64_t>(block.tokens); ++s) {
    std::fill_n(&block.scores[s][s + 1], block_tokens - static_cast<std::size_t>(s) - 1, 0.0f);
    for (std::int64_t t = s; t < static_cast<std::int64_t>(block.tokens); ++t) {
      auto sum = hn::Zero(d);
      for (std::size_t i = 0; i < block.keys; i += hn::Lanes(d)) {
        auto w = hn::Load(d, (t == s ? block.k[s] : block.walk) + i);
        if (t > s) w = hn::Mul(w, hn::Load(d, block.keep[t] + i));
        hn::Store(w, d, block.walk + i);
        sum = hn::MulAdd(w, hn::Load(d, block.q[t] + i), sum);
      }
      block.scores[t][s] = sum_of(sum);
    }
  }
}

// What the state before the block becomes after it.
inline HWY_NOINLINE void advance(const Block& block, Rows<float> before, Rows<float> after) {
  const Floats d;
  product(
      block.keys, block.values, block.tokens, columns_of(block.write), block.v,
      [&](std::size_t i, std::size_t j) {
        return hn::Mul(hn::Set(d, block.change[i]),
                       hn::Load(d, before[static_cast<std::int64_t>(i)] + j));
      },
      [&](std::size_t i, std::size_t j, Float sum) {
        const auto at = static_cast<std::int64_t>(i);
        hn::Store(hn::MulAdd(hn::Set(d, block.stay[i]), hn::Load(d, before[at] + j), sum), d,
                  after[at] + j);
      });
}

// Copies the caller's [K, D] state into padded scratch; an absent one is zero.
inline HWY_NOINLINE void take_state(const Head<float>& h, Rows<const float> from,
                                    const Block& block, Rows<float> to) {
  std::memset(to.data, 0, block.keys * block.values * sizeof(float));
  for (std::int64_t i = 0; i < h.key_width && from; ++i) {
    std::memcpy(to[i], from[i], static_cast<std::size_t>(h.value_width) * sizeof(float));
  }
}

}  // namespace metala::metala_attention::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
