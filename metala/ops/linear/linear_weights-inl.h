// Weights of every type as vectors: f32, bf16 and f16 as floats, q8 and q4 as 16-bit integers
// beside their scales (base/quantized.h).
#if defined(METALA_OPS_LINEAR_WEIGHTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef METALA_OPS_LINEAR_WEIGHTS_INL_H_
#undef METALA_OPS_LINEAR_WEIGHTS_INL_H_
#else
#define METALA_OPS_LINEAR_WEIGHTS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "metala/base/dtype.h"
#include "metala/base/quantized.h"
#include "metala/device/cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace metala::linear::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using vector::HWY_NAMESPACE::Float;
using vector::HWY_NAMESPACE::Floats;
using vector::HWY_NAMESPACE::sum_of;

// A vector of weights as f32. bf16 becomes f32 by a shift.
HWY_INLINE Float load_wide(const float* w) {
  return hn::LoadU(Floats(), w);
}

HWY_INLINE Float load_wide(const bf16* w) {
  const hn::Rebind<std::uint16_t, Floats> halves;
  const hn::RebindToUnsigned<Floats> words;
  const auto bits = hn::LoadU(halves, reinterpret_cast<const std::uint16_t*>(w));
  return hn::BitCast(Floats(), hn::ShiftLeft<16>(hn::PromoteTo(words, bits)));
}

HWY_INLINE Float load_wide(const f16* w) {
  const hn::Rebind<hwy::float16_t, Floats> halves;
  return hn::PromoteTo(Floats(), hn::LoadU(halves, reinterpret_cast<const hwy::float16_t*>(w)));
}

// The last n weights of a row, zero beyond: through a small buffer, so nothing past the row is
// read.
template <class W>
HWY_INLINE Float load_tail(const W* w, std::size_t n) {
  W buffer[HWY_MAX_BYTES / sizeof(float)] = {};
  std::memcpy(static_cast<void*>(buffer), w, n * sizeof(W));
  return load_wide(buffer);
}

constexpr std::size_t group = quantized::group;
constexpr std::size_t pair = quantized::multiple;  // the unit in which q4 interleaves its integers

#if HWY_TARGET == HWY_SCALAR
using Shorts = hn::ScalableTag<std::int16_t>;
#else
using Shorts = hn::CappedTag<std::int16_t, group>;
#endif
using Bytes = hn::Rebind<std::int8_t, Shorts>;

// One row of W in blocks.
struct PackedRow {
  const std::uint8_t* scales;
  const std::int8_t* integers;
};

HWY_INLINE PackedRow packed_row(const void* row, std::size_t n) {
  const auto* start = static_cast<const std::uint8_t*>(row);
  return {start, reinterpret_cast<const std::int8_t*>(start + n / group * 2)};
}

// The scales of `count` groups from `first` on, as floats.
HWY_INLINE void widen_scales(const PackedRow& row, std::size_t first, std::size_t count,
                             float* to) {
  const Floats d;
  const hn::Rebind<hwy::float16_t, Floats> halves;
  const auto* from = reinterpret_cast<const hwy::float16_t*>(row.scales) + first;
  const std::size_t width = hn::Lanes(d);
  std::size_t at = 0;
  for (; at + width <= count; at += width) {
    hn::StoreU(hn::PromoteTo(d, hn::LoadU(halves, from + at)), d, to + at);
  }
  for (; at < count; ++at) {
    const hn::CappedTag<float, 1> one;
    const hn::Rebind<hwy::float16_t, decltype(one)> half;
    hn::StoreU(hn::PromoteTo(one, hn::LoadU(half, from + at)), one, to + at);
  }
}

// Integers j .. j + lanes of both groups of pair p.
struct Unpack8 {
  static constexpr std::size_t bytes_of_pair = pair;
  template <class V>
  static HWY_INLINE void both(const PackedRow& row, std::size_t p, std::size_t j, V& low, V& high) {
    low = hn::PromoteTo(Shorts(), hn::LoadU(Bytes(), row.integers + p * pair + j));
    high = hn::PromoteTo(Shorts(), hn::LoadU(Bytes(), row.integers + p * pair + group + j));
  }
};

struct Unpack4 {
  static constexpr std::size_t bytes_of_pair = pair / 2;
  template <class V>
  static HWY_INLINE void both(const PackedRow& row, std::size_t p, std::size_t j, V& low, V& high) {
    const auto bytes = hn::PromoteTo(Shorts(), hn::LoadU(Bytes(), row.integers + p * group + j));
    low = hn::ShiftRight<12>(hn::ShiftLeft<12>(bytes));
    high = hn::ShiftRight<4>(bytes);
  }
};

// The integers of the pairs [first, first + n / 64) of a row.
template <class Unpack>
HWY_INLINE void unpack_integers(const PackedRow& row, std::size_t first, std::size_t n,
                                std::int16_t* to) {
  for (std::size_t p = 0; p < n / pair; ++p) {
    for (std::size_t j = 0; j < group; j += hn::Lanes(Shorts())) {
      auto low = hn::Zero(Shorts()), high = hn::Zero(Shorts());
      Unpack::both(row, first + p, j, low, high);
      hn::StoreU(low, Shorts(), to + p * pair + j);
      hn::StoreU(high, Shorts(), to + p * pair + group + j);
    }
  }
}

}  // namespace metala::linear::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
