// Whether an op writes a result over what is there, which may be uninitialised, or adds to it.
#pragma once

#include "metala/base/tensor.h"

namespace metala {

enum class Write { overwrite, accumulate };

// For code that only adds: what is to be overwritten becomes zero.
inline void prepare(const Tensor& to, Write write) {
  if (write == Write::overwrite && to.defined()) to.fill_zero();
}

}  // namespace metala
