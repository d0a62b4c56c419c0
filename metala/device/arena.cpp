#include "metala/device/arena.h"

#include <algorithm>
#include <cstdint>

namespace metala {
namespace {

constexpr std::size_t alignment = 256;  // of the strictest device
constexpr std::size_t smallest_chunk = std::size_t{4} << 20;

std::size_t rounded(std::size_t bytes) {
  return (bytes + alignment - 1) / alignment * alignment;
}

// Where the tensors of an arena without memory lie: no program's memory does.
constexpr std::uintptr_t nowhere = std::uintptr_t{1} << 46;

}  // namespace

Arena Arena::without_memory(Device device) {
  Arena arena(device);
  arena.chunks_.push_back({{reinterpret_cast<void*>(nowhere), [](void*) {}}, nowhere});
  return arena;
}

void Arena::reserve(std::size_t bytes) {
  at_ = {};
  chunks_.clear();
  chunks_.push_back({memory_of(device_).allocate(bytes), bytes});
}

std::size_t Arena::capacity() const {
  std::size_t total = 0;
  for (const auto& chunk : chunks_) total += chunk.size;
  return total;
}

Tensor Arena::uninitialized(Shape shape, DType type) {
  const std::size_t bytes = rounded(bytes_of(type, static_cast<std::size_t>(shape.count())));
  while (at_.chunk < chunks_.size() && at_.used + bytes > chunks_[at_.chunk].size) {
    at_ = {at_.chunk + 1, 0};
  }
  if (at_.chunk == chunks_.size()) {
    // Chunks grow with the arena, so that a step of any size settles in a handful of them.
    const std::size_t size = std::max({bytes, smallest_chunk, rounded(capacity() / 4)});
    chunks_.push_back({memory_of(device_).allocate(size), size});
  }
  std::byte* data = static_cast<std::byte*>(chunks_[at_.chunk].memory.get()) + at_.used;
  at_.used += bytes;
  std::size_t in_use = at_.used;
  for (std::size_t i = 0; i < at_.chunk; ++i) in_use += chunks_[i].size;
  peak_ = std::max(peak_, in_use);
  return Tensor::wrap(data, shape, type, nullptr, device_);
}

Tensor Arena::zeros(Shape shape, DType type) {
  Tensor t = uninitialized(shape, type);
  t.fill_zero();
  return t;
}

void Arena::rewind(Mark mark) {
  at_ = mark;
}

}  // namespace metala
