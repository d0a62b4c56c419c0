// The main program of the tests of several ranks: each rank runs the same tests in the same order.
// Rank 0 prints; another rank prints its failures. The exit status is 0 if no test failed anywhere.
#include <gtest/gtest.h>

#include <cstdio>

#include "metala/harness/ranks.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  metala::Communicator& world = metala::harness::world();
  if (world.rank() > 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new metala::harness::FailurePrinter(world.rank()));
  }
  bool failed = RUN_ALL_TESTS() != 0;
  failed = world.any(failed, "results");
  metala::harness::close_world();
  return failed ? 1 : 0;
}
