// Device: where a tensor's memory lies, and what can be done with memory there.
//
// The CPU is always there. Another device exists once its part of the library has provided its
// memory (device/open_device.h does that); tensors and arenas then ask for it here by name.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "metala/base/dtype.h"
#include "metala/base/error.h"

namespace metala {

struct Device {
  enum class Kind : unsigned char { cpu, cuda };
  Kind kind = Kind::cpu;
  int index = 0;

  bool is_cpu() const { return kind == Kind::cpu; }
  bool is_cuda() const { return kind == Kind::cuda; }
  std::string text() const;  // "cpu", "cuda:0"
  bool operator==(const Device&) const = default;
};

// Whether this build has CUDA: a door asks before it hands tensors to the GPU's form of an op.
#ifdef METALA_CUDA
inline constexpr bool cuda_built = true;
#else
inline constexpr bool cuda_built = false;
#endif

// Rows of memory: `count` of them, each `pitch` bytes after the one before.
struct MemoryRows {
  void* data = nullptr;
  std::size_t pitch = 0;
  Device device;
};

class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  // Aligned for any vector. Throws Error that says how much was asked for and what is free.
  virtual std::shared_ptr<void> allocate(std::size_t bytes) = 0;
  // `width` bytes of each of `count` rows. At least one side lies here, the other here or on the
  // CPU. The CPU's memory may be used again when it returns.
  virtual void copy(const MemoryRows& to, const MemoryRows& from, std::size_t width,
                    std::size_t count) = 0;
  virtual void zero(const MemoryRows&, std::size_t width, std::size_t count) = 0;
  // `width` elements of each row, between floating-point types; both sides lie here.
  virtual void convert(const MemoryRows& to, DType to_type, const MemoryRows& from, DType from_type,
                       std::size_t width, std::size_t count) = 0;
  // Waits for all work on the device. Throws Error when some of it failed.
  virtual void synchronize() = 0;
};

// Throws Error when the device has not been opened.
DeviceMemory& memory_of(Device);
void provide_memory(Device, std::unique_ptr<DeviceMemory>);

}  // namespace metala

#ifndef __CUDACC__
// As text(), which is made only where a message is.
template <>
struct fmt::formatter<metala::Device> : fmt::formatter<std::string> {
  template <class Context>
  auto format(const metala::Device& device, Context& context) const {
    return fmt::formatter<std::string>::format(device.text(), context);
  }
};
#endif
