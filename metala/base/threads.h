// Parallel loops on one team of threads, which lasts as long as the program.
//
// Results never depend on how a loop is split: each index owns what it writes, and sums across
// indices are made in a fixed order by the caller.
//
// Whoever starts a loop works on it too, and waits for no thread that has not begun: where others
// keep the cores busy, a loop takes what the cores it gets can do. A loop within a loop, or beside
// one that another thread started, runs on its own thread alone. An exception must not leave a
// loop's body. docs/decisions/0003-a-team-of-threads.md says why not OpenMP.
#pragma once

#include <cstdint>

#include "metala/base/function_ref.h"

namespace metala {

// How many threads may work on a loop: what OMP_NUM_THREADS says, as for other programs of the
// field, or else the processors that this process may run on.
int thread_count();
void set_thread_count(int count);  // at least 1; not within a loop

// Within a loop: which of its threads this is, from 0 to thread_count() - 1.
int thread_index();

// Whether this thread is within a loop, so that a further one would run on it alone.
bool in_parallel();

// Calls f(i) for each i in 0..n, handed out one at a time: for tasks of unequal length. Those of a
// thread are neighbours as far as its share of them reaches (base/shares.h).
void parallel_tasks(std::int64_t n, FunctionRef<void(std::int64_t)> f);

// Calls f(begin, end) on ranges that cover 0..n, each of at least `grain` indices: one for each
// thread.
template <class F>
void parallel_ranges(std::int64_t n, std::int64_t grain, F&& f) {
  if (n <= 0) return;
  const std::int64_t most = (n + grain - 1) / grain;
  const std::int64_t ranges = most < thread_count() ? most : thread_count();
  if (ranges <= 1 || in_parallel()) return f(std::int64_t{0}, n);
  parallel_tasks(ranges, [&](std::int64_t i) {
    const std::int64_t begin = n * i / ranges, end = n * (i + 1) / ranges;
    if (begin < end) f(begin, end);
  });
}

// Calls f(begin, end) on ranges of `length` indices (the last may be shorter) that cover 0..n,
// handed out one at a time: even work stays even when one thread is slower than another.
template <class F>
void parallel_chunks(std::int64_t n, std::int64_t length, F&& f) {
  parallel_tasks((n + length - 1) / length, [&](std::int64_t i) {
    f(i * length, (i + 1) * length < n ? (i + 1) * length : n);
  });
}

}  // namespace metala
