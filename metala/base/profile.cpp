#include "metala/base/profile.h"

#include <mutex>
#include <utility>

namespace metala::profile {
namespace {

std::mutex mutex;
std::map<std::string, Entry>& table() {
  static std::map<std::string, Entry> entries;
  return entries;
}
std::function<void()> settle_work;

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

void settle() {
  if (settle_work) settle_work();
}

}  // namespace detail

void enable(bool on, std::function<void()> settle) {
  settle_work = std::move(settle);
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
