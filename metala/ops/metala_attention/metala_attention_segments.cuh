// How the chunk forms take sequences: which sizes they are compiled for, how sequences are cut into
// segments that blocks walk side by side.
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

// Of all sequences' chunks (chunk_place).
inline std::int64_t chunk_places(const Inputs& in, Offsets offsets) {
  return in.q.size(0) / chunk + batch_of(offsets);
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
  return take.template operator()<32, 32>() || take.template operator()<32, 64>() ||
         take.template operator()<64, 64>() || take.template operator()<64, 128>() ||
         take.template operator()<128, 128>() || take.template operator()<128, 256>();
}

// Whether the chunk forms are compiled for the size, and the device's multiprocessors have the shared
// memory that all their kernels of this size want.
bool has_room(Size, Device);

// Inputs and options; not what comes out, nor the segments.
Problem problem(const Options& options, const Inputs& in, Offsets offsets);

// A pass over segments: blocks that share a multiprocessor at most, and the time of one that has it
// to itself, relative to the other passes.
struct PassCost {
  std::int64_t blocks_at_once;
  double time;
};

// Cuts sequences into segments of at least four chunks, as many as make the walks end soonest: one
// over the pieces of all segments but one, to join them, and one over all. A segment has `walks` of
// both.
void cut(Problem& p, Size size, Offsets offsets, std::int64_t multiprocessors, std::int64_t walks,
         PassCost joining, PassCost whole);

// Memory for the pieces' states and decays.
void take_segments(Problem& p, Size size, metala::cuda::Pieces& pieces);

}  // namespace metala::metala_attention::cuda
