// The permutation that numpy.random.RandomState(seed).shuffle makes.
//
// Fisher and Yates from the end: for i = n-1 ... 1 a number j of 0..i is drawn and elements i and j
// change places. j is the generator's next output cut to as many bits as i has, drawn again while
// it is above i; two outputs, high word first, where i does not fit 32 bits. The generator is the
// Mersenne Twister (MT19937) of std::mt19937; std::shuffle draws differently.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <random>
#include <span>
#include <utility>

namespace metala {

inline std::uint64_t numpy_below_or_equal(std::mt19937& random, std::uint64_t most) {
  const std::uint64_t mask = most == 0 ? 0 : ~std::uint64_t{0} >> std::countl_zero(most);
  std::uint64_t drawn = 0;
  do {
    drawn = random();
    if (most > 0xffffffffu) drawn = drawn << 32 | random();
    drawn &= mask;
  } while (drawn > most);
  return drawn;
}

// What is drawn does not depend on the values, so a few dozen draws are made ahead and the memory
// they will touch is asked for: of an array far beyond the caches most swaps would wait for it.
template <class T>
void numpy_shuffle(std::mt19937& random, std::span<T> values) {
  std::array<std::uint64_t, 64> ahead;
  for (std::uint64_t i = values.size(); i-- > 1;) {
    const std::uint64_t draws = std::min<std::uint64_t>(ahead.size(), i);
    for (std::uint64_t d = 0; d < draws; ++d) {
      ahead[d] = numpy_below_or_equal(random, i - d);
      __builtin_prefetch(&values[ahead[d]], 1);
    }
    for (std::uint64_t d = 0; d < draws; ++d) std::swap(values[i - d], values[ahead[d]]);
    i -= draws - 1;
  }
}

}  // namespace metala
