// Chunk form, backwards: blocks of 16 tokens from right to left, each from the state before it.
//
// States are recomputed, not kept by the forward pass: a first walk keeps one state for every
// segment of blocks, and each segment, when its turn comes, one for every block. Memory grows with
// the square root of the tokens. README.md derives the gradients.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/metala_attention/metala_attention_chunk_backward.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "metala/ops/metala_attention/metala_attention_block-inl.h"
#include "metala/ops/metala_attention/metala_attention_forms.h"
#include "metala/ops/metala_attention/metala_attention_local-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metala::metala_attention::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void scale_rows(const Head<float>& h, std::int64_t count, Rows<float> rows) {
  const auto scale = hn::Set(Floats(), h.scale);
  for (std::int64_t t = 0; t < count; ++t) {
    for_lanes(static_cast<std::size_t>(h.value_width), [&, row = rows[t]](auto lanes) {
      lanes.store(hn::Mul(lanes.load(row), scale), row);
    });
  }
}

// Gradients local to a token: dmixed (with the scale), the augmentation's share of dv, and z's.
// Where the recurrence runs both ways only one of them owns the local gradients.
void backward_local(const Head<float>& h, const HeadGradients<float>& d, std::int64_t first,
                    bool owner, BackwardScratch& block) {
  const LocalRows rows = local_rows(block, first);
  backward_norm(h, d, rows, owner && d.z, block.dmixed);
  if (h.aug != nullptr && owner) {
    backward_augmentation(h, rows, read_only(block.dmixed), block.dv, block.daugmentation);
  } else {
    std::memset(block.dv.data, 0, block.tokens * block.values * sizeof(float));
  }
  scale_rows(h, rows.count, block.dmixed);
}

// dmixed alone, which is all that the gradient of the state needs.
void backward_read(const Head<float>& h, const HeadGradients<float>& d, std::int64_t first,
                   BackwardScratch& block) {
  const LocalRows rows = local_rows(block, first);
  backward_norm(h, d, rows, false, block.dmixed);
  scale_rows(h, rows.count, block.dmixed);
}

// The gradients of read, write and scores, and dv; needs dstate, the gradient after the block.
void backward_products(Rows<float> before, BackwardScratch& block) {
  const Floats d;
  transpose(block.dmixed, block_tokens, block.values, block.dmixed_columns);
  transpose(block.v, block_tokens, block.values, block.v_columns);
  product(block.keys, line, block.values, rows_of(before), block.dmixed_columns, from_zero(),
          into(block.read_columns));
  product(block.keys, line, block.values, rows_of(block.dstate), block.v_columns, from_zero(),
          into(block.write_columns));
  transpose(block.read_columns, block.keys, line, block.dread);
  transpose(block.write_columns, block.keys, line, block.dwrite);
  product(block.tokens, line, block.values, rows_of(block.v), block.dmixed_columns, from_zero(),
          into(block.dscores));
  product(block.tokens, block.values, block.tokens, columns_of(block.scores), block.dmixed,
          from(block.dv), into(block.dv));
  product(block.tokens, block.values, block.keys, rows_of(block.write), block.dstate,
          from(block.dv), into(block.dv));
  for (std::size_t i = 0; i < block.keys; ++i) {
    const auto row = static_cast<std::int64_t>(i);
    auto sum = hn::Zero(d);
    for (std::size_t j = 0; j < block.values; j += hn::Lanes(d)) {
      sum = hn::MulAdd(hn::Load(d, before[row] + j), hn::Load(d, block.dstate[row] + j), sum);
    }
    block.meeting[i] = block.total[i] * sum_of(sum);
  }
}

// The gradients of q, k and the gate, channel by channel.
//
// Pairs s <= t of tokens in the block meet with the weight w = a_{s+1} .. a_t. For each s, `key`
// carries k_s w rightwards, for dq, and `pull` carries sum_t dscores q_t w leftwards, for dk; their
// product at t is what passes through token t's decay from s to t and beyond: t's share of dg.
void backward_channels(const Head<float>& h, const HeadGradients<float>& d, std::int64_t first,
                       bool owner, const BackwardScratch& block) {
  const auto tokens = static_cast<std::int64_t>(block.tokens);
  for_lanes(static_cast<std::size_t>(h.key_width), [&](auto lanes) {
    const Floats tag;
    Float dq[block_tokens];
    Float dk[block_tokens];
    Float dg[block_tokens];
    Float key[block_tokens];
    auto later = lanes.load(block.meeting);
    for (std::int64_t t = tokens - 1; t >= 0; --t) {
      const auto dread = lanes.load(block.dread[t]);
      later = hn::MulAdd(lanes.load(block.read[t]), dread, later);
      dg[t] = later;
      dq[t] = hn::Mul(lanes.load(block.prefix[t]), dread);
    }
    auto earlier = hn::Zero(tag);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const auto dwrite = lanes.load(block.dwrite[t]);
      dg[t] = hn::Add(dg[t], earlier);
      earlier = hn::MulAdd(lanes.load(block.write[t]), dwrite, earlier);
      dk[t] = hn::Mul(lanes.load(block.suffix[t]), dwrite);
    }
    for (std::int64_t s = 0; s < tokens; ++s) {
      const float* dscores = block.dscores[s];
      key[s] = lanes.load(block.k[s]);
      dq[s] = hn::MulAdd(hn::Set(tag, dscores[s]), key[s], dq[s]);
      for (std::int64_t t = s + 1; t < tokens; ++t) {
        key[t] = hn::Mul(key[t - 1], lanes.load(block.keep[t]));
        dq[t] = hn::MulAdd(hn::Set(tag, dscores[t]), key[t], dq[t]);
      }
      auto pull = hn::Zero(tag);
      for (std::int64_t t = tokens - 1; t > s; --t) {
        pull = hn::MulAdd(hn::Set(tag, dscores[t]), lanes.load(block.q[t]), pull);
        dg[t] = hn::MulAdd(pull, key[t], dg[t]);
        pull = hn::Mul(pull, lanes.load(block.keep[t]));
      }
      dk[s] = hn::Add(dk[s], hn::MulAdd(hn::Set(tag, dscores[s]), lanes.load(block.q[s]), pull));
    }
    auto daug = hn::Zero(tag);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const auto q = lanes.load(block.q[t]);
      const auto k = lanes.load(block.k[t]);
      if (h.aug != nullptr && owner) {
        const auto dscore = hn::Set(tag, block.daugmentation[t]);
        const auto pulled = hn::Mul(dscore, lanes.load(h.aug));
        dq[t] = hn::MulAdd(pulled, k, dq[t]);
        dk[t] = hn::MulAdd(pulled, q, dk[t]);
        daug = hn::MulAdd(hn::Mul(dscore, q), k, daug);
      }
      const auto add = [&](float* row, Float gradient) {
        lanes.store(hn::Add(lanes.load(row), gradient), row);
      };
      if (d.q) add(d.q[first + t], dq[t]);
      if (d.k) add(d.k[first + t], dk[t]);
      if (d.u) {
        if (!h.k) dg[t] = hn::NegMulAdd(lanes.load(block.keep[t]), dk[t], dg[t]);
        add(d.u[first + t], hn::Mul(dg[t], lanes.load(block.slope[t])));
      }
    }
    if (d.aug != nullptr) lanes.store(hn::Add(lanes.load(d.aug), daug), d.aug);
  });
  for (std::int64_t t = 0; t < tokens && d.v; ++t) {
    float* row = d.v[first + t];
    for_lanes(static_cast<std::size_t>(h.value_width), [&](auto lanes) {
      lanes.store(hn::Add(lanes.load(row), lanes.load(block.dv[t])), row);
    });
  }
}

// dstate after the block becomes dstate before it.
void retreat(BackwardScratch& block) {
  const Floats d;
  const Rows<float> state = block.dstate;
  product(
      block.keys, block.values, block.tokens, columns_of(block.read), block.dmixed,
      [&](std::size_t i, std::size_t j) {
        return hn::Mul(hn::Set(d, block.change[i]), from(state)(i, j));
      },
      [&](std::size_t i, std::size_t j, Float sum) {
        into(state)(i, j, hn::MulAdd(hn::Set(d, block.stay[i]), from(state)(i, j), sum));
      });
}

void walk_back(const Head<float>& h, const HeadGradients<float>& d, bool owner,
               BackwardScratch& block, float* states) {
  const std::int64_t blocks = blocks_of(h.tokens);
  const std::int64_t per_segment = segment_blocks(h.tokens);
  const std::int64_t segments = (blocks + per_segment - 1) / per_segment;
  const auto stride = static_cast<std::ptrdiff_t>(block.values);
  const auto size = static_cast<std::ptrdiff_t>(block.keys) * stride;
  const auto start_of = [&](std::int64_t segment) {
    return Rows<float>{states + segment * size, stride};
  };
  const auto add_before = [&] {
    for (std::int64_t i = 0; i < h.key_width && d.before; ++i) {
      for_lanes(static_cast<std::size_t>(h.value_width), [&](auto lanes) {
        lanes.store(hn::Add(lanes.load(d.before[i]), lanes.load(block.dstate[i])), d.before[i]);
      });
    }
  };
  const auto pass = [&](std::int64_t b, Rows<float> from_state, Rows<float> to_state) {
    load<Purpose::state>(h, b * static_cast<std::int64_t>(block_tokens), block);
    advance(block, from_state, to_state);
  };

  // The gradient of the state needs no states.
  const bool only_before = !d.q && !d.u && !d.k && !d.v && !d.z && d.aug == nullptr;
  if (only_before) {
    take_state(h, d.after, block, block.dstate);
    for (std::int64_t b = blocks - 1; b >= 0; --b) {
      const std::int64_t first = b * static_cast<std::int64_t>(block_tokens);
      load<Purpose::outputs>(h, first, block);
      backward_read(h, d, first, block);
      retreat(block);
    }
    return add_before();
  }

  take_state(h, h.before, block, start_of(0));
  for (std::int64_t segment = 0; segment + 1 < segments; ++segment) {
    Rows<float> from_state = start_of(segment);
    for (std::int64_t b = segment * per_segment; b < (segment + 1) * per_segment; ++b) {
      pass(b, from_state, start_of(segment + 1));
      from_state = start_of(segment + 1);
    }
  }

  take_state(h, d.after, block, block.dstate);
  for (std::int64_t segment = segments - 1; segment >= 0; --segment) {
    const std::int64_t begin = segment * per_segment;
    const std::int64_t end = std::min(begin + per_segment, blocks);
    // States inside the segment follow those of the segments' starts in memory.
    const auto state_before = [&](std::int64_t b) {
      return b == begin ? start_of(segment) : start_of(segments + b - begin - 1);
    };
    for (std::int64_t b = begin; b + 1 < end; ++b) pass(b, state_before(b), state_before(b + 1));
    for (std::int64_t b = end - 1; b >= begin; --b) {
      const std::int64_t first = b * static_cast<std::int64_t>(block_tokens);
      load<Purpose::gradients>(h, first, block);
      score(block);
      backward_local(h, d, first, owner, block);
      backward_products(state_before(b), block);
      backward_channels(h, d, first, owner, block);
      retreat(block);
    }
  }
  add_before();
}

void chunk_backward(const Head<float>& h, const HeadGradients<float>& d, float* scratch,
                    float* states) {
  Carver memory(scratch);
  BackwardScratch block(memory, static_cast<std::size_t>(h.key_width),
                        static_cast<std::size_t>(h.value_width));
  walk_back(h, d, true, block, states);
  if (h.bidirectional) walk_back(reversed(h), reversed(d, h.tokens), false, block, states);
}

}  // namespace metala::metala_attention::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::metala_attention::cpu {
HWY_EXPORT(chunk_backward);

void chunk_backward(const Head<float>& h, const HeadGradients<float>& d, float* scratch,
                    float* states) {
  HWY_DYNAMIC_DISPATCH(chunk_backward)(h, d, scratch, states);
}

}  // namespace metala::metala_attention::cpu
#endif
