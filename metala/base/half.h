// The two types of sixteen bits that GPUs compute in.
#pragma once

#include "metala/base/dtype.h"

namespace metala {

constexpr bool is_half(DType type) {
  return type == DType::bf16 || type == DType::f16;
}

}  // namespace metala
