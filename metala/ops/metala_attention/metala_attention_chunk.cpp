// Chunk form, forwards: 16 tokens at a time. The state stays in scratch for the whole sequence and
// is read twice and written once for every 16 tokens.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/metala_attention/metala_attention_chunk.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/highway.h>

#include "metala/ops/metala_attention/metala_attention_block-inl.h"
#include "metala/ops/metala_attention/metala_attention_forms.h"
#include "metala/ops/metala_attention/metala_attention_local-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metala::metala_attention::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// mixed = scale (read S + scores v): what the tokens read from the state before the block, and from
// one another.
void read_block(float scale, ForwardScratch& block) {
  const Floats d;
  product(block.tokens, block.values, block.keys, rows_of(block.read), block.state, from_zero(),
          into(block.mixed));
  product(block.tokens, block.values, block.tokens, rows_of(block.scores), block.v,
          from(block.mixed), [&](std::size_t t, std::size_t j, Float sum) {
            into(block.mixed)(t, j, hn::Mul(sum, hn::Set(d, scale)));
          });
}

// Calls use(first) for every block once block.mixed holds what its tokens read.
template <class Use>
void walk(const Head<float>& h, ForwardScratch& block, Use use) {
  for (std::int64_t first = 0; first < h.tokens; first += block_tokens) {
    load<Purpose::outputs>(h, first, block);
    score(block);
    read_block(h.scale, block);
    use(first);
    advance(block, block.state, block.state);
  }
}

void chunk_forward(const Head<float>& h, const HeadOutputs<float>& out, float* scratch) {
  Carver memory(scratch);
  ForwardScratch block(memory, static_cast<std::size_t>(h.key_width),
                       static_cast<std::size_t>(h.value_width));
  const auto width = static_cast<std::size_t>(h.value_width);
  // Where the recurrence runs both ways, what is read right to left waits in an output.
  const Rows<float> waiting = out.mixed ? out.mixed : out.o;
  if (h.bidirectional) {
    const Rows<float> rows = reversed(waiting, h.tokens);
    take_state(h, {}, block, block.state);
    walk(reversed(h), block, [&](std::int64_t first) {
      for (std::int64_t t = 0; t < static_cast<std::int64_t>(block.tokens); ++t) {
        std::memcpy(rows[first + t], block.mixed[t], width * sizeof(float));
      }
    });
  }
  take_state(h, h.before, block, block.state);
  walk(h, block, [&](std::int64_t first) {
    const LocalRows rows = local_rows(block, first);
    for (std::int64_t t = 0; t < rows.count && h.bidirectional; ++t) {
      for_lanes(width, [&, c = block.mixed[t], other = waiting[first + t]](auto lanes) {
        lanes.store(hn::Add(lanes.load(c), lanes.load(other)), c);
      });
    }
    finish(h, out, rows, block.mixed);
  });
  for (std::int64_t i = 0; i < h.key_width && out.after; ++i) {
    std::memcpy(out.after[i], block.state[i], width * sizeof(float));
  }
}

void chunk_transition(const Head<float>& h, Rows<float> added, float* decay, float* scratch) {
  Carver memory(scratch);
  ForwardScratch block(memory, static_cast<std::size_t>(h.key_width),
                       static_cast<std::size_t>(h.value_width));
  const auto width = static_cast<std::size_t>(h.key_width);
  take_state(h, {}, block, block.state);
  std::fill_n(decay, width, 1.0f);
  for (std::int64_t first = 0; first < h.tokens; first += block_tokens) {
    load<Purpose::state>(h, first, block);
    advance(block, block.state, block.state);
    for_lanes(width, [&](auto lanes) {
      lanes.store(hn::Mul(lanes.load(decay), lanes.load(block.total)), decay);
    });
  }
  for (std::int64_t i = 0; i < h.key_width; ++i) {
    std::memcpy(added[i], block.state[i], static_cast<std::size_t>(h.value_width) * sizeof(float));
  }
}

}  // namespace metala::metala_attention::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::metala_attention::cpu {
HWY_EXPORT(chunk_forward);
HWY_EXPORT(chunk_transition);

void chunk_forward(const Head<float>& h, const HeadOutputs<float>& out, float* scratch) {
  HWY_DYNAMIC_DISPATCH(chunk_forward)(h, out, scratch);
}

void chunk_transition(const Head<float>& h, Rows<float> added, float* decay, float* scratch) {
  HWY_DYNAMIC_DISPATCH(chunk_transition)(h, added, decay, scratch);
}

}  // namespace metala::metala_attention::cpu
#endif
