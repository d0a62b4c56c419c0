// Block-scaled weights: rows of 8-bit or 4-bit integers, a 16-bit scale for every 32 of them.
//
//   w[i] = scale[i / 32] q[i]        q8: q in -127 .. 127        q4: q in -8 .. 7
//
// A row holds a multiple of 64 weights and is stored as its scales (f16), then its integers in
// two's complement. q8: a byte each. q4: byte j of the 32 bytes that follow weight 64 b holds
// q[64 b + j] in its low and q[64 b + 32 + j] in its high half. So n weights take n + n/16 or
// n/2 + n/16 bytes, 8.5 and 4.5 bits each.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "metala/base/dtype.h"

namespace metala::quantized {

constexpr std::int64_t group = 32;     // weights that share a scale
constexpr std::int64_t multiple = 64;  // of the weights of a row

// `to` holds bytes_of(type, n). q8 takes the scale from the largest weight of a group; q4 looks for
// the scale with the least squared error. Throws Error for weights that are not finite or whose
// scale is beyond f16.
void quantize_row(const float* from, std::int64_t n, DType type, void* to);

void dequantize_row(const void* from, std::int64_t n, DType type, float* to);

// The parts of quantize_row, for those who choose integers by other rules than the nearest.

using Group = std::array<float, group>;
// The scale that suits these weights best: of the squared errors the sum, each times its
// importance (> 0), is least. q8 heeds the largest weight alone. Throws as quantize_row does.
f16 choose_scale(const Group& weights, DType type, const Group& importance);
f16 choose_scale(const Group& weights, DType type);  // all of one importance
// The integer q for which scale * q is nearest to the weight.
int nearest(float weight, f16 scale, DType type);
// Writes group g of the row of n weights at `row`, all of it.
using Integers = std::array<std::int8_t, group>;
void store_group(void* row, std::int64_t n, std::int64_t g, DType type, f16 scale,
                 const Integers& q);

}  // namespace metala::quantized
