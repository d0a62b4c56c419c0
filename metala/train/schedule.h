// Learning rate as a function of the number of steps done.
//
//   n steps done; W warmup steps; N steps in all; m = n - W; E = N - W
//   warmup, n <= W and W > 0:   base * max(1, n) / W
//   constant:  base
//   linear:    base (E - m) / E
//   exponential: base exp(-0.693 m / E)
//   cosine:    low + (base - low) / 2 * (1 + cos(pi m / E))
//   wsd:       base, then over the last fifth of the steps base * (1 - sqrt(progress))
// Never below `low`. Steps 1 and 2 share a rate, as in GPT-NeoX, whose formulas these are (wsd: as
// in llm.c). After N the rate stays at its last value; GPT-NeoX's goes on along its curve, so that
// a cosine rises again.
#pragma once

#include <cstdint>
#include <string>

namespace metala {

enum class ScheduleKind { constant, linear, cosine, exponential, wsd };
// Throws Error that lists the names for any other.
ScheduleKind schedule_named(const std::string& name);

struct Schedule {
  ScheduleKind kind = ScheduleKind::cosine;
  double base = 3e-4;
  double low = 0;
  double warmup = 0;  // steps, may be a fraction
  std::int64_t steps = 1000;
  bool stays = true;  // after N; false: GPT-NeoX's way
};

double learning_rate(const Schedule&, std::int64_t done);

}  // namespace metala
