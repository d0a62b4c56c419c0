// How the chunk forms take sequences: which sizes they are compiled for, how sequences are cut into
// segments that blocks walk side by side, and how the segments' states are joined.
#pragma once

#include "metala/device/cuda/pieces.h"
#include "metala/ops/metala_attention/metala_attention.h"
#include "metala/ops/metala_attention/metala_attention_chunk.cuh"

namespace metala::metala_attention::cuda {

struct Size {
  std::int64_t key_width, value_width;
  bool operator==(const Size&) const = default;
};

inline Size size_of(const Options& options, const Inputs& in) {
  return {in.q.size(1) / options.heads, in.v.size(1) / options.heads};
}

// Calls f.template operator()<K, D>() for a size that the chunk forms are compiled for; false for
// another.
template <class F>
bool with_size(Size size, F&& f) {
  const auto take = [&]<int key_width, int value_width>() {
    if (size != Size{key_width, value_width}) return false;
    f.template operator()<key_width, value_width>();
    return true;
  };
  return take.template operator()<32, 32>() || take.template operator()<64, 64>() ||
         take.template operator()<64, 128>() || take.template operator()<128, 128>() ||
         take.template operator()<128, 256>();
}

// Inputs and options; not what comes out, nor the segments.
Problem problem(const Options& options, const Inputs& in, Offsets offsets);

// Cuts sequences into segments of at least four chunks, as many as make the walks end soonest on a
// GPU where `at_once` blocks run side by side; a segment has `walks` of them.
void cut(Problem& p, Size size, Offsets offsets, std::int64_t at_once, std::int64_t walks);

// Memory for the segments' states and decays.
void take_segments(Problem& p, Size size, metala::cuda::Pieces& pieces);

// From what each segment adds to the state before each segment, in place; backwards from what each
// adds to the gradient to that after each segment. The last segment in the order of the walk is not
// read.
template <bool backwards>
void join_segments(const Problem& p, int key_width, int value_width, cudaStream_t stream);

}  // namespace metala::metala_attention::cuda
