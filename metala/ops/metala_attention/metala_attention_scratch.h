// Working memory of the chunk form: matrices of one block of tokens for one head.
//
// Inputs are copied into it block by block. That costs a hundredth of the arithmetic and buys rows
// that are aligned, padded to whole vectors and next to each other, where rows of the token
// matrices lie a power of two apart and evict one another from the cache.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "metala/ops/metala_attention/metala_attention_head.h"

namespace metala::metala_attention::cpu {

inline constexpr std::size_t block_tokens = 16;

// Row widths are multiples of this many floats: a cache line, and the widest vector.
inline constexpr std::size_t line = 16;

constexpr std::size_t padded(std::size_t width) {
  return (width + line - 1) / line * line;
}

inline std::int64_t blocks_of(std::int64_t tokens) {
  constexpr auto size = static_cast<std::int64_t>(block_tokens);
  return (tokens + size - 1) / size;
}

// Cuts one piece of memory into matrices. Without memory it only counts what they need.
class Carver {
 public:
  explicit Carver(float* memory) : memory_(memory) {}
  Rows<float> matrix(std::size_t rows, std::size_t width) {
    const std::size_t at = used_;
    used_ += rows * width;
    return {memory_ == nullptr ? nullptr : memory_ + at, static_cast<std::ptrdiff_t>(width)};
  }
  std::size_t used() const { return used_; }

 private:
  float* memory_;
  std::size_t used_ = 0;
};

// Blocks between two states that the backward pass keeps from its first walk: all of them up to
// 1,024 tokens, then about the square root.
inline std::int64_t segment_blocks(std::int64_t tokens) {
  const std::int64_t blocks = blocks_of(tokens);
  const auto root = static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(blocks))));
  return std::max<std::int64_t>(64, root);
}

// States kept at once: at the starts of segments, and inside one of them.
inline std::int64_t kept_states(std::int64_t tokens) {
  const std::int64_t blocks = blocks_of(tokens);
  const std::int64_t inside = std::min(segment_blocks(tokens), blocks);
  return (blocks + inside - 1) / inside + inside - 1;
}

// Memory is zeroed once; the padding of rows stays zero, rows past the block's tokens hold what an
// earlier block left.
struct Block {
  Block(Carver& memory, std::size_t key_width, std::size_t value_width)
      : keys(padded(key_width)), values(padded(value_width)) {
    for (auto* matrix : {&q, &k, &keep, &slope, &prefix, &suffix, &read, &write}) {
      *matrix = memory.matrix(block_tokens, keys);
    }
    v = memory.matrix(block_tokens, values);
    scores = memory.matrix(block_tokens, block_tokens);
    stay = memory.matrix(1, keys).data;
    change = memory.matrix(1, keys).data;
    total = memory.matrix(1, keys).data;
    walk = memory.matrix(1, keys).data;
  }

  std::size_t keys, values;  // padded widths
  std::size_t tokens = 0;
  Rows<float> q, k, v;
  Rows<float> keep, slope;       // a, and dg/du
  Rows<float> prefix, suffix;    // products of a from the block's start to t, from t + 1 to its end
  Rows<float> read, write;       // q prefix and k suffix: what meets the state before and after
  Rows<float> scores;            // [t, s]: sum over channels of q_t k_s and the decay between them
  float *stay, *change, *total;  // the state decays by S <- stay S + change S; see load()
  float* walk;                   // a row that moves along the block
};

struct ForwardScratch : Block {
  ForwardScratch(Carver& memory, std::size_t key_width, std::size_t value_width)
      : Block(memory, key_width, value_width),
        state(memory.matrix(keys, values)),
        mixed(memory.matrix(block_tokens, values)) {}
  Rows<float> state;  // [K, D]
  Rows<float> mixed;  // [16, D]
};

struct BackwardScratch : Block {
  BackwardScratch(Carver& memory, std::size_t key_width, std::size_t value_width)
      : Block(memory, key_width, value_width) {
    dstate = memory.matrix(keys, values);
    for (auto* matrix : {&dmixed, &dv}) *matrix = memory.matrix(block_tokens, values);
    for (auto* matrix : {&dmixed_columns, &v_columns}) *matrix = memory.matrix(values, line);
    for (auto* matrix : {&read_columns, &write_columns}) *matrix = memory.matrix(keys, line);
    for (auto* matrix : {&dread, &dwrite}) *matrix = memory.matrix(block_tokens, keys);
    dscores = memory.matrix(block_tokens, line);
    meeting = memory.matrix(1, keys).data;
    daugmentation = memory.matrix(1, block_tokens).data;
  }
  Rows<float> dstate;                       // gradient of the state after the block [K, D]
  Rows<float> dmixed, dv;                   // [16, D]; dmixed with the scale
  Rows<float> dmixed_columns, v_columns;    // their transposes [D, 16]
  Rows<float> read_columns, write_columns;  // S0 dmixed^T, dstate v^T [K, 16]
  Rows<float> dread, dwrite;                // the same, a row for each token [16, K]
  Rows<float> dscores;                      // [s, t]
  float* meeting;                           // rowsum(dstate S0), decayed by the whole block
  float* daugmentation;                     // gradient of each token's augmentation score
};

}  // namespace metala::metala_attention::cpu
