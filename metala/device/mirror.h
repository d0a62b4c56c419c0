// Ids and offsets where kernels read them.
#pragma once

#include "metala/base/ragged.h"
#include "metala/device/arena.h"

namespace metala {

// The same numbers with a copy in the arena; on the CPU, or where there is a copy, as they are.
template <class T>
Mirrored<T> mirrored(Arena& arena, const Mirrored<T>& numbers) {
  if (arena.device().is_cpu() || numbers.there() != nullptr) return numbers;
  const Shape shape = {static_cast<std::int64_t>(numbers.size())};
  const Tensor there = arena.uninitialized(shape, dtype_of<T>);
  there.copy_from(Tensor::wrap(const_cast<T*>(numbers.data()), shape));  // read, not written
  return Mirrored<T>(numbers.host(), there.template data<T>());
}

}  // namespace metala
