// Copies to the CPU that go on beside a device's own work.
#pragma once

#include "metala/base/tensor.h"

namespace metala {

// A copy on the CPU, shape and type kept. On a GPU it is made on a stream of its own, from any
// thread: what was written must be there (DeviceMemory::synchronize) and stay until this returns.
Tensor fetch(const Tensor&);

}  // namespace metala
