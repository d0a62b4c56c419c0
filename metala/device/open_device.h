// The device that a user names.
#pragma once

#include <string>

#include "metala/base/device.h"

namespace metala {

// "cpu", "cuda", "cuda:1". Throws Error in one line for a name that is none, a build without CUDA,
// or a GPU that cannot be used.
Device open_device(const std::string& name);

}  // namespace metala
