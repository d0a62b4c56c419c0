// Rows of matrices taken in packs of 16 bytes, or element by element where rows do not lie so.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "metala/base/tensor.h"

namespace metala::cuda {

// Whether packs of 16 bytes cover the rows of all of these matrices of one type; undefined ones do
// not matter.
inline bool in_packs(std::initializer_list<const Tensor*> matrices) {
  return std::all_of(matrices.begin(), matrices.end(), [](const Tensor* t) {
    if (!t->defined()) return true;
    const auto pack = static_cast<std::int64_t>(16 / bytes_of(t->dtype(), 1));
    return reinterpret_cast<std::uintptr_t>(t->raw()) % 16 == 0 && t->stride(0) % pack == 0 &&
           t->size(1) % pack == 0;
  });
}

// Calls f.template operator()<n>() with the elements of T that are taken at once.
template <class T, class F>
void with_pack(bool packed, F&& f) {
  if (packed) return f.template operator()<static_cast<int>(16 / sizeof(T))>();
  f.template operator()<1>();
}

// Threads of a block that takes `items`, each thread about as many.
inline unsigned threads_for(std::int64_t items) {
  constexpr std::int64_t most = 512;
  const std::int64_t passes = std::max<std::int64_t>((items + most - 1) / most, 1);
  return static_cast<unsigned>(((items + passes - 1) / passes + 31) / 32 * 32);
}

}  // namespace metala::cuda
