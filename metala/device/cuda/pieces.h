// Pieces of one block of scratch memory, laid one after the other.
//
// A layout is written once, as calls of `take`, and run twice: without memory it only counts the
// bytes, with memory it hands out the pieces.
#pragma once

#include <cstddef>
#include <cstdint>

#include "metala/base/tensor.h"
#include "metala/device/cuda/cuda_device.h"

namespace metala::cuda {

class Pieces {
 public:
  // Runs lay_out(Pieces&) for its bytes, then over the device's scratch memory (cuda_device.h).
  template <class LayOut>
  static void lay(Device device, LayOut lay_out, Scratch use = Scratch::own) {
    Pieces counted;
    lay_out(counted);
    Pieces pieces;
    pieces.base_ = static_cast<unsigned char*>(workspace(device, counted.used_, use));
    lay_out(pieces);
  }

  template <class T>
  T* take(std::int64_t count) {
    return static_cast<T*>(take_bytes(static_cast<std::size_t>(count) * sizeof(T)));
  }
  Tensor matrix(std::int64_t rows, std::int64_t columns, DType type, Device device) {
    void* piece = take_bytes(bytes_of(type, static_cast<std::size_t>(rows * columns)));
    return Tensor::wrap(piece, {rows, columns}, type, nullptr, device);
  }

 private:
  void* take_bytes(std::size_t bytes) {
    void* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (bytes + 255) / 256 * 256;
    return piece;
  }

  unsigned char* base_ = nullptr;
  std::size_t used_ = 0;
};

}  // namespace metala::cuda
