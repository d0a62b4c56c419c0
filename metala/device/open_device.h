// The device that a user names.
#pragma once

#include <string>

#include "metala/base/device.h"

namespace metala {

// "cpu", "cuda", "cuda:1". Throws Error in one line for a name that is none, a build without CUDA,
// or a GPU that cannot be used.
Device open_device(const std::string& name);

// What its maker calls it: "NVIDIA H200"; empty for the CPU.
std::string name_of(Device);

}  // namespace metala
