#include "metala/base/threads.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>

#include "metala/base/shares.h"

namespace metala {
namespace {

// A loop follows the last within microseconds while a model runs, so waiting begins with looking;
// a thread that sleeps takes some ten microseconds to wake. Longer looking would only take a core
// from somebody else.
constexpr std::chrono::microseconds patience{50};

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// The value of `word` once `done` accepts it: looked for until nothing has happened for a while,
// then slept for.
template <class Done>
std::uint32_t wait_for(const std::atomic<std::uint32_t>& word, Done done) {
  constexpr int looks = 16;  // between readings of the clock
  std::uint32_t seen = word.load(std::memory_order_acquire);
  for (std::uint32_t last = ~seen; last != seen;) {
    last = seen;
    const auto start = std::chrono::steady_clock::now();
    do {
      for (int i = 0; i < looks; ++i) {
        if (done(seen)) return seen;
        pause();
        seen = word.load(std::memory_order_acquire);
      }
    } while (std::chrono::steady_clock::now() - start < patience);
  }
  while (!done(seen)) {
    word.wait(seen, std::memory_order_acquire);
    seen = word.load(std::memory_order_acquire);
  }
  return seen;
}

thread_local int index_of_thread = 0;
thread_local bool working = false;

// One loop at a time. `state_` says which loop it is, whether threads may still join it, and how
// many have and are not through: its other fields change only while none is in and none may join.
class Team {
 public:
  // False where another thread's loop is running.
  bool run(std::int64_t tasks, FunctionRef<void(std::int64_t)> work, int threads) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return false;
    hire(threads - 1);
    shares_.deal(tasks, threads);
    work_ = &work;
    helpers_.store(threads - 1, std::memory_order_relaxed);
    const std::uint32_t loop = state_.load(std::memory_order_relaxed) + one_loop;
    state_.store(loop | joinable);
    state_.notify_all();
    take_part(0);
    state_.fetch_and(~joinable);
    wait_for(state_, [](std::uint32_t state) { return (state & inside) == 0; });
    return true;
  }

 private:
  static constexpr std::uint32_t inside = (1u << 12) - 1;
  static constexpr std::uint32_t joinable = 1u << 12;
  static constexpr std::uint32_t one_loop = 1u << 13;

  void take_part(int index) {
    working = true;
    for (std::int64_t task; (task = shares_.take(index)) >= 0;) (*work_)(task);
    working = false;
  }

  void help(int index) {
    index_of_thread = index;
    std::uint32_t last = 0;  // the loop that this thread has looked at
    for (;;) {
      const std::uint32_t seen = wait_for(state_, [&](std::uint32_t state) {
        return (state & joinable) != 0 && state / one_loop != last;
      });
      last = seen / one_loop;
      if (index > helpers_.load(std::memory_order_relaxed) || !join(seen)) continue;
      take_part(index);
      leave();
    }
  }

  // Whether the loop that `seen` is about could still be joined.
  bool join(std::uint32_t seen) {
    const std::uint32_t loop = seen / one_loop;
    while ((seen & joinable) != 0 && seen / one_loop == loop) {
      if (state_.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire)) return true;
    }
    return false;
  }

  void leave() {
    const std::uint32_t before = state_.fetch_sub(1);
    if ((before & joinable) == 0 && (before & inside) == 1) state_.notify_all();
  }

  // Helpers take no signals: those are for the threads that the program has started itself.
  void hire(int wanted) {
    if (hired_ >= wanted) return;
    sigset_t all, kept;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &kept);
    try {
      for (; hired_ < wanted; ++hired_) {
        std::thread([this, index = hired_ + 1] { help(index); }).detach();
      }
    } catch (const std::system_error&) {  // the system has no more: those that there are suffice
    }
    pthread_sigmask(SIG_SETMASK, &kept, nullptr);
  }

  std::mutex mutex_;
  int hired_ = 0;
  // Apart from the others, since helpers look at it.
  alignas(64) std::atomic<std::uint32_t> state_{0};
  alignas(64) Shares shares_;
  FunctionRef<void(std::int64_t)>* work_ = nullptr;
  std::atomic<int> helpers_{0};  // may work on this loop; read before joining it
};

// Never destroyed, since its threads are never ended: they sleep until the process is gone.
Team& team() {
  static Team& only = *new Team;
  return only;
}

int processors() {
  constexpr int most = 1024;
  const char* text = std::getenv("OMP_NUM_THREADS");
  const int wanted = text == nullptr ? 0 : std::atoi(text);
  const int count = wanted > 0 ? wanted : static_cast<int>(std::thread::hardware_concurrency());
  return std::clamp(count, 1, most);
}

std::atomic<int>& count_of_threads() {
  static std::atomic<int> count{processors()};
  return count;
}

}  // namespace

int thread_count() {
  return count_of_threads().load(std::memory_order_relaxed);
}

void set_thread_count(int count) {
  count_of_threads().store(std::max(count, 1), std::memory_order_relaxed);
}

int thread_index() {
  return index_of_thread;
}

bool in_parallel() {
  return working;
}

void parallel_tasks(std::int64_t n, FunctionRef<void(std::int64_t)> f) {
  if (n > 1 && !working) {
    const auto threads = static_cast<int>(std::min<std::int64_t>(n, thread_count()));
    if (threads > 1 && n <= Shares::most && team().run(n, f, threads)) return;
  }
  for (std::int64_t i = 0; i < n; ++i) f(i);
}

}  // namespace metala
