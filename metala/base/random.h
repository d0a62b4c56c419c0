// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011).
//
// Number i of stream s under a seed is a pure function of (seed, s, i): results do not depend on
// the order of draws, on threads or on how a batch is composed.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

#include "metala/base/host_device.h"

namespace metala {

class Philox {
 public:
  METALA_HOST_DEVICE explicit Philox(std::uint64_t seed, std::uint64_t stream = 0)
      : seed_(seed), stream_(stream) {}

  // Four independent 32-bit numbers for counter i.
  METALA_HOST_DEVICE std::array<std::uint32_t, 4> block(std::uint64_t i) const {
    std::array<std::uint32_t, 4> c = {
        static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32),
        static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32)};
    auto k0 = static_cast<std::uint32_t>(seed_);
    auto k1 = static_cast<std::uint32_t>(seed_ >> 32);
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0];
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c[2];
      c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
           static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return c;
  }

  // Uniform in [0, 1), 53 bits.
  double uniform(std::uint64_t i) const {
    const auto b = block(i);
    return static_cast<double>((std::uint64_t{b[0]} << 21) ^ (b[1] >> 11)) * 0x1p-53;
  }

  // Standard normal (Box-Muller on the two halves of one block).
  double normal(std::uint64_t i) const {
    const auto b = block(i);
    const double u =
        (static_cast<double>((std::uint64_t{b[0]} << 21) ^ (b[1] >> 11)) + 0.5) * 0x1p-53;
    const double v = static_cast<double>((std::uint64_t{b[2]} << 21) ^ (b[3] >> 11)) * 0x1p-53;
    return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
  }

  // Uniform integer in [0, n), n > 0, by the upper half of a product (bias below n / 2^64).
  std::uint64_t below(std::uint64_t i, std::uint64_t n) const {
    __extension__ using Product = unsigned __int128;
    const auto b = block(i);
    return static_cast<std::uint64_t>((Product{(std::uint64_t{b[0]} << 32) | b[1]} * n) >> 64);
  }

 private:
  std::uint64_t seed_;
  std::uint64_t stream_;
};

// FNV-1a, for turning a name into a stream number. Not for anything an adversary may choose.
constexpr std::uint64_t hash_name(std::string_view name) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

}  // namespace metala
