// The ranks of a test program that mpirun started.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <memory>

#include "metala/distributed/world.h"

namespace metala::harness {

inline std::unique_ptr<Communicator>& world_slot() {
  static std::unique_ptr<Communicator> slot;
  return slot;
}

// All of them; time is bounded, so that a rank that fails does not leave the others waiting.
inline Communicator& world() {
  auto& slot = world_slot();
  if (!slot) {
    slot = open_world(launch_from(environment_variable), {}, std::chrono::minutes(5));
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
