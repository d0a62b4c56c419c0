// LossScaler: keeps float16's small gradients from becoming zero. The loss is multiplied by a scale
// before the backward pass, the gradients divided by it afterwards.
//
// Where the scale is so large that a gradient overflows, on any rank, the step is left out: the
// weights stay, and the schedule and AdamW do not count it. The dynamic scale is GPT-NeoX's
// (DeepSpeed's): an overflow spends a credit and, when only one is left, halves the scale; `window`
// steps after the last overflow, and every `window` after that, it doubles and the credits are
// whole again.
#pragma once

#include <cstdint>
#include <string>

namespace metala {

struct LossScaling {
  bool on = false;
  double fixed = 0;  // 0: dynamic
  std::int64_t initial_power = 16;
  std::int64_t window = 1000, hysteresis = 2;
  double minimum = 1;
};

class LossScaler {
 public:
  // What a resumed run needs to know.
  struct State {
    double scale = 1;
    std::int64_t credits = 0;
    std::int64_t good_steps = 0;  // since the last overflow
    std::int64_t left_out = 0;    // steps, in all
    std::int64_t left_out_in_a_row = 0;
    bool operator==(const State&) const = default;
  };

  explicit LossScaler(const LossScaling&);

  bool on() const { return scaling_.on; }
  double scale() const { return state_.scale; }
  const State& state() const { return state_; }
  void restore(const State& state) { state_ = state; }

  // After a step that was taken.
  void passed();
  // After a step whose loss or gradients were not finite. Empty: it is left out and training goes on; else
  // why that is hopeless: the scale cannot fall further, or fifty steps in a row were left out.
  std::string overflowed();

 private:
  bool dynamic() const { return scaling_.fixed == 0; }

  LossScaling scaling_;
  State state_;
};

}  // namespace metala
