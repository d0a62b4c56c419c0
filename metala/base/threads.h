// Parallel loops on the OpenMP team that the matrix library also uses.
//
// Results never depend on how a loop is split: each index owns what it writes, and sums across
// indices are made in a fixed order by the caller.
#pragma once

#include <omp.h>

#include <cstdint>

namespace metala {

inline int thread_count() {
  return omp_get_max_threads();
}

// Calls f(begin, end) on ranges that cover 0..n, each of at least `grain` indices. An exception
// must not leave f.
template <class F>
void parallel_ranges(std::int64_t n, std::int64_t grain, F&& f) {
  if (n <= 0) return;
  const std::int64_t most = (n + grain - 1) / grain;
  const auto team = static_cast<int>(most < thread_count() ? most : thread_count());
  if (team <= 1 || omp_in_parallel() != 0) {
    f(std::int64_t{0}, n);
    return;
  }
#pragma omp parallel num_threads(team)
  {
    const std::int64_t rank = omp_get_thread_num();
    const std::int64_t size = omp_get_num_threads();
    const std::int64_t begin = n * rank / size;
    const std::int64_t end = n * (rank + 1) / size;
    if (begin < end) f(begin, end);
  }
}

// Calls f(i) for each i in 0..n, handed out one at a time: for tasks of unequal length.
template <class F>
void parallel_tasks(std::int64_t n, F&& f) {
  if (n <= 1 || thread_count() <= 1 || omp_in_parallel() != 0) {
    for (std::int64_t i = 0; i < n; ++i) f(i);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1)
  for (std::int64_t i = 0; i < n; ++i) f(i);
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
