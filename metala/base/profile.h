// Where a run's time goes: named scopes, off unless asked for.
//
// Scopes may nest; each is charged its whole time. They are opened by the thread that calls the
// ops, not inside parallel regions. Off, a scope costs the read of one flag.
// Work on a GPU is only enqueued within its scope: with a `settle` that waits for the GPU, called
// where scopes begin and end, a scope is charged the work itself (and the wait, some microseconds).
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>

namespace metala::profile {

struct Entry {
  std::int64_t calls = 0;
  double seconds = 0;
  double flops = 0;
};

void enable(bool on, std::function<void()> settle = {});
void clear();
std::map<std::string, Entry> entries();

namespace detail {
extern std::atomic<bool> enabled;
void add(const char* name, double seconds, double flops);
void settle();
}  // namespace detail

inline bool enabled() {
  return detail::enabled.load(std::memory_order_relaxed);
}

class Scope {
 public:
  explicit Scope(const char* name, double flops = 0) {
    if (!enabled()) return;
    name_ = name;
    flops_ = flops;
    detail::settle();
    start_ = std::chrono::steady_clock::now();
  }
  ~Scope() {
    if (name_ == nullptr) return;
    detail::settle();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start_;
    detail::add(name_, took.count(), flops_);
  }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  const char* name_ = nullptr;
  double flops_ = 0;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace metala::profile
