#include "metala/base/quantized.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "metala/base/error.h"

namespace metala::quantized {
namespace {

struct Row {
  std::byte* scales;
  std::byte* integers;
};

f16 scale_of(float value) {
  const f16 scale(value);
  require(std::isfinite(static_cast<float>(scale)),
          "quantize: a weight is not finite or too large for a 16-bit scale");
  return scale;
}

// Adding and taking away 1.5 * 2^23 rounds a small float to the nearest integer, ties to even, in a
// form that compilers turn into vectors.
float rounded(float x) {
  constexpr float magic = 12582912;
  return (x + magic) - magic;
}

float inverse_of(f16 scale) {
  const auto value = static_cast<float>(scale);
  return value == 0 ? 0 : 1 / value;
}

float largest_of(const Group& w) {  // by magnitude, with its sign; NaN if there is one
  float largest = 0;
  for (const float x : w) {
    if (!(std::fabs(x) <= std::fabs(largest))) largest = x;
    if (std::isnan(largest)) break;
  }
  return largest;
}

// `importance` may be null: 1 for all.
float squared_error(const Group& w, f16 half, const Group* importance) {
  const auto scale = static_cast<float>(half);
  const float inverse = inverse_of(half);
  std::array<float, 4> sums = {};
  for (std::size_t i = 0; i < w.size(); i += sums.size()) {
    for (std::size_t l = 0; l < sums.size(); ++l) {
      const float q = std::min(std::max(rounded(w[i + l] * inverse), -8.0f), 7.0f);
      const float error = w[i + l] - scale * q;
      sums[l] += importance == nullptr ? error * error : (*importance)[i + l] * error * error;
    }
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// The range -8 .. 7 is lopsided, so the largest weight may meet either end, or be cut short to the
// good of the others: all are tried.
f16 best_scale(const Group& w, const Group* importance) {
  const float largest = largest_of(w);
  f16 best = scale_of(largest / -8);
  float least = squared_error(w, best, importance);
  for (const float end : {-8.0f, 7.0f}) {
    for (int step = -6; step <= 12; ++step) {
      const f16 scale = scale_of(largest / (end * (1 + 0.025f * static_cast<float>(step))));
      const float error = squared_error(w, scale, importance);
      if (error < least) {
        least = error;
        best = scale;
      }
    }
  }
  return best;
}

f16 choose(const Group& w, DType type, const Group* importance) {
  return type == DType::q8 ? scale_of(std::fabs(largest_of(w)) / 127) : best_scale(w, importance);
}

int nearest_times(float weight, float inverse, DType type) {
  const float most = type == DType::q8 ? 127 : 7;
  const float least = type == DType::q8 ? -127 : -8;
  return static_cast<int>(std::clamp(rounded(weight * inverse), least, most));
}

Row parts(void* row, std::int64_t n) {
  auto* start = static_cast<std::byte*>(row);
  return {start, start + n / group * 2};
}

int signed_half(unsigned bits) {  // of the low four
  return static_cast<int>((bits & 15u) ^ 8u) - 8;
}

}  // namespace

f16 choose_scale(const Group& weights, DType type) {
  return choose(weights, type, nullptr);
}

f16 choose_scale(const Group& weights, DType type, const Group& importance) {
  return choose(weights, type, &importance);
}

int nearest(float weight, f16 scale, DType type) {
  return nearest_times(weight, inverse_of(scale), type);
}

void store_group(void* to, std::int64_t n, std::int64_t g, DType type, f16 scale,
                 const Integers& q) {
  const Row row = parts(to, n);
  std::memcpy(row.scales + 2 * g, &scale.bits, 2);
  if (type == DType::q8) {
    std::memcpy(row.integers + g * group, q.data(), q.size());
    return;
  }
  std::byte* bytes = row.integers + g / 2 * group;
  const int shift = g % 2 == 0 ? 0 : 4;
  for (std::size_t j = 0; j < q.size(); ++j) {
    const auto other = bytes[j] & static_cast<std::byte>(0xf0 >> shift);
    bytes[j] = other | static_cast<std::byte>((q[j] & 15) << shift);
  }
}

void quantize_row(const float* from, std::int64_t n, DType type, void* to) {
  require(n % multiple == 0, "quantize: rows of {} weights; wanted a multiple of {}", n, multiple);
  for (std::int64_t g = 0; g < n / group; ++g) {
    Group w;
    std::copy_n(from + g * group, group, w.begin());
    const f16 scale = choose_scale(w, type);
    const float inverse = inverse_of(scale);
    Integers q;
    for (std::size_t j = 0; j < w.size(); ++j) {
      q[j] = static_cast<std::int8_t>(nearest_times(w[j], inverse, type));
    }
    store_group(to, n, g, type, scale, q);
  }
}

void dequantize_row(const void* from, std::int64_t n, DType type, float* to) {
  const Row row = parts(const_cast<void*>(from), n);  // read only
  for (std::int64_t g = 0; g < n / group; ++g) {
    f16 half;
    std::memcpy(&half.bits, row.scales + 2 * g, 2);
    const auto scale = static_cast<float>(half);
    for (std::int64_t j = 0; j < group; ++j) {
      int q;
      if (type == DType::q8) {
        q = static_cast<std::int8_t>(row.integers[g * group + j]);
      } else {
        const auto both = static_cast<unsigned>(row.integers[g / 2 * group + j]);
        q = signed_half(g % 2 == 0 ? both : both >> 4);
      }
      to[g * group + j] = scale * static_cast<float>(q);
    }
  }
}

}  // namespace metala::quantized
