// One NVIDIA GPU: opening it, its stream, its limits.
//
// All work of a process on one GPU goes through one stream, in order; only copies to the CPU wait.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <string>

#include "metala/base/device.h"
#include "metala/base/tensor.h"

namespace metala::cuda {

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  std::size_t memory = 0, free_memory = 0;  // bytes
  int driver = 0, runtime = 0;              // versions, as 1000 * major + 10 * minor
};

// GPUs that the driver shows; 0 without a driver.
int device_count();

// Makes the GPU's memory known to tensors (base/device.h). Opening twice is harmless. Throws Error
// in one line: no GPU, a driver too old, an architecture this build has no code for.
Device open(int index);

DeviceInfo info(Device);
int multiprocessors(Device);  // remembered from opening
// Bytes that a block can have of its multiprocessor, by allow_shared_memory: 163 KiB with compute
// capability 8.0, 227 with 9.0, 99 with 8.6, 8.9 and 12.0.
std::size_t shared_memory(Device);
cudaStream_t stream(Device);

// At the door of an op's CUDA form: all defined tensors lie on the GPU of the first. Throws Error
// naming the op otherwise. Makes that GPU current and returns its stream.
cudaStream_t enter(const char* op, std::initializer_list<const Tensor*> tensors);

// Lets a kernel's blocks have more shared memory than the 48 KiB that every kernel may.
void allow_shared_memory(const void* kernel, std::size_t bytes);

// A block of scratch memory that is valid for the work enqueued next, until the next call with the
// same device and use. Grows; at a fixed size it keeps its address. `around`: for an op that calls
// others which have scratch memory of their own.
enum class Scratch { own, around };
void* workspace(Device, std::size_t bytes, Scratch = Scratch::own);
// The blocks as they are now, to keep for work that will be enqueued again.
std::array<std::shared_ptr<void>, 2> held_workspaces(Device);

// While one lives, nothing that is enqueued on the device is executed (graph.h, rehearse), and
// copies and zeroing do nothing.
class Rehearsal {
 public:
  explicit Rehearsal(Device);
  ~Rehearsal();
  Rehearsal(const Rehearsal&) = delete;
  Rehearsal& operator=(const Rehearsal&) = delete;

 private:
  Device device_;
};

}  // namespace metala::cuda
