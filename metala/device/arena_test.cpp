#include "metala/device/arena.h"

#include <gtest/gtest.h>

namespace metala {
namespace {

// What a step may do: take, give back, take more.
void step(Arena& arena) {
  arena.uninitialized({1000, 1000});
  {
    const ArenaScope scope(arena);
    arena.uninitialized({3, 7});
    arena.uninitialized({2000, 1000});
  }
  arena.uninitialized({500, 1000}, DType::f64);
}

TEST(Arena, WithoutMemoryFindsWhatAStepNeeds) {
  Arena counting = Arena::without_memory({});
  step(counting);
  Arena arena;
  arena.reserve(counting.peak());
  step(arena);
  EXPECT_EQ(arena.peak(), counting.peak());
  EXPECT_EQ(arena.capacity(), counting.peak());
}

TEST(Arena, GivesTheSameAddressesToTheSameStep) {
  Arena arena;
  step(arena);
  arena.reset();
  const void* first = arena.uninitialized({10}).raw();
  const void* second = arena.uninitialized({10}).raw();
  arena.reset();
  EXPECT_EQ(arena.uninitialized({10}).raw(), first);
  EXPECT_EQ(arena.uninitialized({10}).raw(), second);
}

TEST(Arena, GrowsBeyondWhatWasReserved) {
  Arena arena;
  arena.reserve(1 << 20);
  arena.zeros({100}).fill_zero();
  arena.zeros({1 << 20}).fill_zero();
  EXPECT_GE(arena.capacity(), std::size_t{4} << 20);
}

}  // namespace
}  // namespace metala
