// Arena: memory for the intermediate values of one step, handed out by moving a pointer.
//
// A step that makes the same calls gets the same addresses, which lets it be replayed, and nothing
// is allocated once the arena has grown to the step's size. Tensors from an arena do not own their
// memory: they are dead after `reset` or after the `Mark` that precedes them is rewound.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "metala/base/tensor.h"

namespace metala {

class Arena {
 public:
  explicit Arena(Device device = {}) : device_(device) {}
  // An arena whose tensors have addresses and no memory, to find out what a step would need
  // (device/cuda/graph.h, rehearse).
  static Arena without_memory(Device);
  Device device() const { return device_; }

  Tensor zeros(Shape, DType = DType::f32);
  Tensor uninitialized(Shape, DType = DType::f32);

  struct Mark {
    std::size_t chunk = 0;
    std::size_t used = 0;
  };
  Mark mark() const { return at_; }
  void rewind(Mark);  // frees what was handed out since
  void reset() { rewind({}); }
  std::size_t peak() const { return peak_; }  // bytes, over the arena's life

  // So many bytes in one piece, instead of what there was: all tensors of before are dead.
  void reserve(std::size_t bytes);
  std::size_t capacity() const;  // bytes that it holds

 private:
  struct Chunk {
    std::shared_ptr<void> memory;
    std::size_t size;
  };
  Device device_;
  std::vector<Chunk> chunks_;
  Mark at_;
  std::size_t peak_ = 0;
};

// Rewinds the arena at the end of a scope.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.rewind(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

}  // namespace metala
