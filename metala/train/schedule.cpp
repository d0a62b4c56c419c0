#include "metala/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "metala/base/error.h"

namespace metala {

ScheduleKind schedule_named(const std::string& name) {
  if (name == "constant") return ScheduleKind::constant;
  if (name == "linear") return ScheduleKind::linear;
  if (name == "cosine") return ScheduleKind::cosine;
  if (name == "wsd") return ScheduleKind::wsd;
  if (name == "exponential") return ScheduleKind::exponential;
  fail("schedule \"{}\" is not known; supported: constant, linear, cosine, exponential, wsd", name);
}

double learning_rate(const Schedule& s, std::int64_t done) {
  const auto total = static_cast<double>(s.steps);
  const double n = s.stays ? std::min(static_cast<double>(done), total) : static_cast<double>(done);
  if (s.warmup > 0 && n <= s.warmup) return s.base * std::max(1.0, n) / s.warmup;
  const double m = n - s.warmup;
  const double span = std::max(total - s.warmup, 1.0);
  double rate = s.base;
  switch (s.kind) {
    case ScheduleKind::constant:
      break;
    case ScheduleKind::linear:
      rate = s.base * (span - m) / span;
      break;
    case ScheduleKind::cosine:
      rate = s.low + (s.base - s.low) / 2 * (1 + std::cos(std::numbers::pi * m / span));
      break;
    case ScheduleKind::exponential:
      rate = s.base * std::exp(-0.693 * m / span);
      break;
    case ScheduleKind::wsd: {
      const double tail = 0.2 * total;
      const double progress = std::clamp((n - (total - tail)) / tail, 0.0, 1.0);
      rate = s.base * (1 - std::sqrt(progress));
      break;
    }
  }
  return std::max(rate, s.low);
}

}  // namespace metala
