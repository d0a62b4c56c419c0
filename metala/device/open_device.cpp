#include "metala/device/open_device.h"

#include <charconv>
#include <string_view>

#include "metala/base/error.h"

#ifdef METALA_CUDA
#include "metala/device/cuda/cuda_device.h"
#endif

namespace metala {

Device open_device(const std::string& name) {
  if (name == "cpu") return {};
  int index = 0;
  if (name != "cuda") {
    const std::string_view prefix = "cuda:";
    const bool prefixed = name.starts_with(prefix);
    const char* const end = name.data() + name.size();
    const auto parsed = std::from_chars(prefixed ? name.data() + prefix.size() : end, end, index);
    require(parsed.ec == std::errc() && parsed.ptr == end,
            "device {}: wanted cpu, cuda or cuda:NUMBER", name);
  }
#ifdef METALA_CUDA
  return cuda::open(index);
#else
  fail("device {}: this build has no CUDA; build with `cmake --preset cuda`, or use cpu", name);
#endif
}

std::string name_of(Device device) {
#ifdef METALA_CUDA
  if (device.is_cuda()) return cuda::info(device).name;
#endif
  return device.is_cpu() ? "" : device.text();
}

}  // namespace metala
