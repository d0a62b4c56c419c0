// Memory of the CPU that kernels read and write in place, over the bus: for the few numbers that a
// step is told.
#pragma once

#include <cstddef>
#include <memory>

#include "metala/base/device.h"

namespace metala::cuda {

// Has one address for both sides. Throws Error when the system has no such memory left.
std::shared_ptr<void> pinned_memory(Device, std::size_t bytes);

}  // namespace metala::cuda
