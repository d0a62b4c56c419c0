#include "metala/base/device.h"

#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "metala/base/error.h"

namespace metala {
namespace {

constexpr std::size_t alignment = 64;  // a cache line, and the widest vector

class CpuMemory : public DeviceMemory {
 public:
  std::shared_ptr<void> allocate(std::size_t bytes) override {
    const std::size_t wanted = bytes == 0 ? 1 : bytes;
    void* memory = std::aligned_alloc(alignment, (wanted + alignment - 1) / alignment * alignment);
    require(memory != nullptr, "out of memory: {} bytes wanted", bytes);
    return {memory, std::free};
  }
  void copy(const MemoryRows& to, const MemoryRows& from, std::size_t width,
            std::size_t count) override {
    for (std::size_t i = 0; i < count; ++i) {
      std::memcpy(static_cast<std::byte*>(to.data) + i * to.pitch,
                  static_cast<const std::byte*>(from.data) + i * from.pitch, width);
    }
  }
  void zero(const MemoryRows& rows, std::size_t width, std::size_t count) override {
    for (std::size_t i = 0; i < count; ++i) {
      std::memset(static_cast<std::byte*>(rows.data) + i * rows.pitch, 0, width);
    }
  }
  void convert(const MemoryRows&, DType, const MemoryRows&, DType, std::size_t,
               std::size_t) override {
    fail("device: the CPU converts element by element (tensor.cpp)");
  }
  void synchronize() override {}
};

struct Registry {
  std::mutex mutex;
  std::map<int, std::unique_ptr<DeviceMemory>> cuda;
};

Registry& registry() {
  static Registry all;
  return all;
}

}  // namespace

std::string Device::text() const {
  return is_cpu() ? "cpu" : fmt::format("cuda:{}", index);
}

DeviceMemory& memory_of(Device device) {
  static CpuMemory cpu;
  if (device.is_cpu()) return cpu;
  const std::scoped_lock lock(registry().mutex);
  const auto found = registry().cuda.find(device.index);
  require(found != registry().cuda.end(), "{} was not opened", device);
  return *found->second;
}

void provide_memory(Device device, std::unique_ptr<DeviceMemory> memory) {
  const std::scoped_lock lock(registry().mutex);
  registry().cuda[device.index] = std::move(memory);
}

}  // namespace metala
