// The ranks of a test program that mpirun, or torchrun's variables, started.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <memory>

#include "metala/device/open_device.h"
#include "metala/distributed/world.h"

namespace metala::harness {

inline std::unique_ptr<Communicator>& world_slot() {
  static std::unique_ptr<Communicator> slot;
  return slot;
}

// All of them; time is bounded, so that a rank that fails does not leave the others waiting.
// Without MPI they meet on their GPUs, and tensors on the CPU travel through those.
inline Communicator& world() {
  auto& slot = world_slot();
  if (!slot) {
    const Launch launch = launch_from(environment_variable);
    const bool on_gpus = launch.size > 1 && !launch.by_mpi;
    slot = open_world(launch,
                      on_gpus ? open_device(fmt::format("cuda:{}", launch.local_rank)) : Device{},
                      std::chrono::minutes(5));
  }
  return *slot;
}

inline void close_world() {
  world_slot().reset();
}

// Prints the failures of a rank whose tests are otherwise silent.
class FailurePrinter : public testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_(rank) {}
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "rank %d: %s:%d: %s\n", rank_,
                 result.file_name() == nullptr ? "?" : result.file_name(), result.line_number(),
                 result.summary());
  }

 private:
  int rank_;
};

}  // namespace metala::harness
