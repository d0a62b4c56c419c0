// Timing work on a GPU within Google Benchmark: batches of launches between two waits, so that
// neither the launch of one nor the wait counts.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <exception>

#include "metala/base/device.h"
#include "metala/device/open_device.h"

namespace metala::harness {

// Calls measure(gpu) unless there is no GPU; then the benchmark says so.
template <class F>
void on_gpu(benchmark::State& state, F&& measure) {
  Device gpu;
  try {
    gpu = open_device("cuda");
  } catch (const std::exception& e) {
    state.SkipWithError(e.what());
    return;
  }
  measure(gpu);
}

// Times `work`, which enqueues something on the GPU and touches `bytes` of its memory.
template <class F>
void time_on_gpu(benchmark::State& state, Device gpu, double bytes, F&& work) {
  constexpr int launches = 20;
  DeviceMemory& memory = memory_of(gpu);
  for (int i = 0; i < 3; ++i) work();
  memory.synchronize();
  for (auto unused : state) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < launches; ++i) work();
    memory.synchronize();
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    state.SetIterationTime(passed.count() / launches);
  }
  state.counters["bytes"] = benchmark::Counter(bytes, benchmark::Counter::kIsIterationInvariantRate,
                                               benchmark::Counter::kIs1000);
}

}  // namespace metala::harness
