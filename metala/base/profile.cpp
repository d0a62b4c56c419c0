#include "metala/base/profile.h"

#include <mutex>

namespace metala::profile {
namespace {

std::mutex mutex;
std::map<std::string, Entry>& table() {
  static std::map<std::string, Entry> entries;
  return entries;
}

}  // namespace

namespace detail {

std::atomic<bool> enabled{false};

void add(const char* name, double seconds, double flops) {
  const std::lock_guard lock(mutex);
  Entry& entry = table()[name];
  ++entry.calls;
  entry.seconds += seconds;
  entry.flops += flops;
}

}  // namespace detail

void enable(bool on) {
  detail::enabled.store(on, std::memory_order_relaxed);
}

void clear() {
  const std::lock_guard lock(mutex);
  table().clear();
}

std::map<std::string, Entry> entries() {
  const std::lock_guard lock(mutex);
  return table();
}

}  // namespace metala::profile
