// Work that is recorded once and replayed, a launch for hundreds of kernels; and work that is only
// rehearsed.
#pragma once

#include <functional>
#include <memory>

#include "metala/base/device.h"

namespace metala::cuda {

class Graph {
 public:
  // Runs `work`, which may only enqueue on the device's stream, and records what it enqueues
  // without executing it. Whatever it allocates or plans must exist already: run it once before.
  // Keeps the scratch memory it used (cuda_device.h) alive. Throws Error when the work waited for
  // the device or allocated.
  Graph(Device, const std::function<void()>& work);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch() const;

 private:
  struct Recorded;
  Device device_;
  std::unique_ptr<Recorded> recorded_;
};

// Runs `work` without executing what it enqueues on the device's stream, whose tensors need no
// memory then (Arena::without_memory). Copies and zeroing do nothing either. What does happen:
// kernels are loaded, products planned, and scratch memory grows to what the work needs.
void rehearse(Device, const std::function<void()>& work);

}  // namespace metala::cuda
