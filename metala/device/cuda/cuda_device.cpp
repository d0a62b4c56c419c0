#include "metala/device/cuda/cuda_device.h"

#include <map>
#include <memory>
#include <mutex>

#include "metala/device/cuda/convert.h"
#include "metala/device/cuda/cublas_lt.h"
#include "metala/device/cuda/cuda_error.h"

namespace metala::cuda {
namespace {

class GpuMemory : public DeviceMemory {
 public:
  explicit GpuMemory(int index, cudaStream_t stream) : index_(index), stream_(stream) {}

  std::shared_ptr<void> allocate(std::size_t bytes) override {
    check(cudaSetDevice(index_), "cuda");
    void* memory = nullptr;
    const cudaError_t status = cudaMalloc(&memory, bytes == 0 ? 1 : bytes);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      std::size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      fail(
          "cuda:{}: out of memory: {} MiB wanted, {} of {} MiB are free; fewer prompts at once or "
          "weights in bf16 need less, in training fewer --sequences (with more --accumulation), a "
          "shorter --sequence-length, --recompute or --dtype bf16",
          index_, bytes >> 20, free >> 20, total >> 20);
    }
    check(status, "cuda: allocating memory");
    return {memory, [](void* p) { cudaFree(p); }};
  }

  void copy(const MemoryRows& to, const MemoryRows& from, std::size_t width,
            std::size_t count) override {
    if (rehearsing) return;
    check(cudaSetDevice(index_), "cuda");
    if (to.device == from.device) {
      return cuda::copy(to.data, to.pitch, from.data, from.pitch, width, count, stream_);
    }
    check(cudaMemcpy2DAsync(to.data, to.pitch, from.data, from.pitch, width, count,
                            cudaMemcpyDefault, stream_),
          "cuda: copying memory");
    // The CPU's memory is free for its owner once this returns.
    if (to.device.is_cpu() || from.device.is_cpu()) {
      check(cudaStreamSynchronize(stream_), "cuda: copying memory");
    }
  }

  void zero(const MemoryRows& rows, std::size_t width, std::size_t count) override {
    if (rehearsing) return;
    check(cudaSetDevice(index_), "cuda");
    cuda::zero(rows.data, rows.pitch, width, count, stream_);
  }

  void convert(const MemoryRows& to, DType to_type, const MemoryRows& from, DType from_type,
               std::size_t width, std::size_t count) override {
    for (const DType type : {to_type, from_type}) {
      require(type == DType::f32 || type == DType::bf16 || type == DType::f16,
              "cuda: {} cannot be converted on the GPU", name_of(type));
    }
    check(cudaSetDevice(index_), "cuda");
    cuda::convert(to.data, to.pitch, to_type, from.data, from.pitch, from_type, width, count,
                  stream_);
  }

  void synchronize() override {
    if (rehearsing) return;
    check(cudaStreamSynchronize(stream_), "cuda: a kernel failed");
  }

  bool rehearsing = false;

 private:
  int index_;
  cudaStream_t stream_;
};

struct Gpu {
  cudaStream_t stream = nullptr;
  GpuMemory* memory = nullptr;
  std::array<std::shared_ptr<void>, 2> workspaces;  // by use
  std::array<std::size_t, 2> workspace_bytes = {};
  int multiprocessors = 0;
  std::size_t shared_memory = 0;
};

std::mutex mutex;

std::map<int, Gpu>& gpus() {
  static std::map<int, Gpu> opened;
  return opened;
}

Gpu& gpu(Device device) {
  const std::scoped_lock lock(mutex);
  const auto found = gpus().find(device.index);
  require(device.is_cuda() && found != gpus().end(), "{} was not opened", device);
  return found->second;
}

}  // namespace

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

Device open(int index) {
  const Device device = {Device::Kind::cuda, index};
  {
    const std::scoped_lock lock(mutex);
    if (gpus().contains(index)) return device;
  }
  int driver = 0;  // stays 0 without one
  if (cudaDriverGetVersion(&driver) != cudaSuccess) cudaGetLastError();
  require(driver > 0, "cuda: no NVIDIA driver is installed; run with --device cpu");
  require(
      driver / 1000 >= CUDART_VERSION / 1000,
      "cuda: the driver is made for CUDA {}.{}, older than this build's {}.{}; update it or run "
      "with --device cpu",
      driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) cudaGetLastError();
  require(status == cudaSuccess && count > 0,
          "cuda: no NVIDIA GPU is seen ({}); run with --device cpu", cudaGetErrorString(status));
  require(index >= 0 && index < count,
          "cuda:{}: the GPUs here are cuda:0 to cuda:{}; name one of them or use cpu", index,
          count - 1);
  require_cublas_lt();
  check(cudaSetDevice(index), "cuda: choosing the GPU");
  cudaFuncAttributes attributes;
  const cudaError_t code = cudaFuncGetAttributes(&attributes, any_kernel());
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), "cuda: reading the GPU's properties");
  if (code != cudaSuccess) {
    cudaGetLastError();
    fail(
        "cuda:{}: {} has compute capability {}.{}, for which this build has no code; build with "
        "CMAKE_CUDA_ARCHITECTURES={}{}, or run with --device cpu",
        index, properties.name, properties.major, properties.minor, properties.major,
        properties.minor);
  }
  Gpu opened;
  opened.multiprocessors = properties.multiProcessorCount;
  opened.shared_memory = properties.sharedMemPerBlockOptin;
  check(cudaStreamCreateWithFlags(&opened.stream, cudaStreamNonBlocking), "cuda: making a stream");
  auto memory = std::make_unique<GpuMemory>(index, opened.stream);
  opened.memory = memory.get();
  provide_memory(device, std::move(memory));
  const std::scoped_lock lock(mutex);
  gpus().emplace(index, opened);
  return device;
}

DeviceInfo info(Device device) {
  check(cudaSetDevice(device.index), "cuda: choosing the GPU");
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device.index), "cuda: reading properties");
  DeviceInfo info;
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  check(cudaMemGetInfo(&info.free_memory, &info.memory), "cuda: reading free memory");
  check(cudaDriverGetVersion(&info.driver), "cuda: reading the driver's version");
  check(cudaRuntimeGetVersion(&info.runtime), "cuda: reading the runtime's version");
  return info;
}

int multiprocessors(Device device) {
  return gpu(device).multiprocessors;
}

std::size_t shared_memory(Device device) {
  return gpu(device).shared_memory;
}

cudaStream_t stream(Device device) {
  return gpu(device).stream;
}

cudaStream_t enter(const char* op, std::initializer_list<const Tensor*> tensors) {
  Device device;
  for (const Tensor* t : tensors) {
    if (!t->defined()) continue;
    if (device.is_cpu()) device = t->device();
    require(t->device() == device && device.is_cuda(), "{}: tensors on {} and {}", op, device,
            t->device());
  }
  check(cudaSetDevice(device.index), op);
  return stream(device);
}

void allow_shared_memory(const void* kernel, std::size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "a kernel's shared memory");
}

void* workspace(Device device, std::size_t bytes, Scratch use) {
  Gpu& g = gpu(device);
  auto& block = g.workspaces[static_cast<std::size_t>(use)];
  auto& size = g.workspace_bytes[static_cast<std::size_t>(use)];
  if (bytes > size) {
    memory_of(device).synchronize();  // what was enqueued may still use the old one
    block.reset();
    size = 0;  // should there be no memory
    block = memory_of(device).allocate(bytes);
    size = bytes;
  }
  return block.get();
}

Rehearsal::Rehearsal(Device device) : device_(device) {
  memory_of(device).synchronize();  // memory that is given back meanwhile may be in use
  gpu(device).memory->rehearsing = true;
}

Rehearsal::~Rehearsal() {
  gpu(device_).memory->rehearsing = false;
}

std::array<std::shared_ptr<void>, 2> held_workspaces(Device device) {
  return gpu(device).workspaces;
}

}  // namespace metala::cuda
