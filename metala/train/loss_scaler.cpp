#include "metala/train/loss_scaler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace metala {

LossScaler::LossScaler(const LossScaling& scaling) : scaling_(scaling) {
  if (!scaling.on) return;
  state_.scale =
      dynamic() ? std::ldexp(1.0, static_cast<int>(scaling.initial_power)) : scaling.fixed;
  state_.credits = scaling.hysteresis;
}

void LossScaler::passed() {
  state_.left_out_in_a_row = 0;
  ++state_.good_steps;
  if (!scaling_.on || !dynamic() || state_.good_steps % scaling_.window != 0) return;
  state_.scale *= 2;
  state_.credits = scaling_.hysteresis;
}

std::string LossScaler::overflowed() {
  constexpr std::int64_t most_in_a_row = 50;
  state_.good_steps = 0;
  ++state_.left_out;
  ++state_.left_out_in_a_row;
  if (state_.left_out_in_a_row >= most_in_a_row) {
    return fmt::format("{} steps in a row overflowed", most_in_a_row);
  }
  if (!dynamic()) return "";
  if (state_.credits > 1) {
    --state_.credits;
    return "";
  }
  if (state_.scale <= scaling_.minimum) {
    return fmt::format("the loss scale is {} and cannot fall further", state_.scale);
  }
  state_.scale = std::max(state_.scale / 2, scaling_.minimum);
  return "";
}

}  // namespace metala
