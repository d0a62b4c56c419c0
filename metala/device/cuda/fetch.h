// Bytes from a GPU to the CPU on a stream of their own.
#pragma once

#include <cstddef>

#include "metala/base/device.h"

namespace metala::cuda {

// Returns when they are there. Waits for none of the device's work and holds none up.
void fetch(void* to, const void* from, std::size_t bytes, Device);

}  // namespace metala::cuda
