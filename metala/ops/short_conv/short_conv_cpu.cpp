// A lane owns a channel; taps lie as W rows of d, so every access is along a row. A thread owns a
// range of rows (forward) or a range of channels (backward: a channel's weight gradient is summed
// over all tokens in their order, whatever the number of threads). Each sequence's first W-1 tokens
// read the state, which is laid out as rows first; all others read x alone.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/short_conv/short_conv_cpu.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/highway.h>

#include <algorithm>
#include <vector>

#include "metala/base/threads.h"
#include "metala/device/cpu/vector-inl.h"
#include "metala/ops/short_conv/short_conv_cpu.h"

namespace metala::short_conv::cpu {
#ifndef METALA_SHORT_CONV_CPU_SIZES
#define METALA_SHORT_CONV_CPU_SIZES
constexpr std::size_t step_channels = 256;  // at a time, in 32 KiB of the stack
#endif
}  // namespace metala::short_conv::cpu

HWY_BEFORE_NAMESPACE();
namespace metala::short_conv::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using vector::HWY_NAMESPACE::Float;
using vector::HWY_NAMESPACE::Floats;
using vector::HWY_NAMESPACE::for_lanes;
using vector::HWY_NAMESPACE::sigmoid;

// inputs[j]: the row that tap j multiplies; taps [W, d].
void forward_row(const float* const* inputs, const float* taps, std::size_t width,
                 std::size_t channels, float* y) {
  for_lanes(channels, [&](auto lanes) {
    Float c = hn::Zero(Floats());
    for (std::size_t j = 0; j < width; ++j) {
      c = hn::MulAdd(lanes.load(taps + j * channels), lanes.load(inputs[j]), c);
    }
    lanes.store(hn::Mul(c, sigmoid(c)), y);
  });
}

// Channels `begin` to `end` of one token: dx_rows[j] is the gradient of inputs[j]'s row.
void backward_row(const float* dy, const float* const* inputs, float* const* dinputs,
                  const float* taps, float* dtaps, std::size_t width, std::size_t channels,
                  std::size_t begin, std::size_t end) {
  const auto one = hn::Set(Floats(), 1.0f);
  for_lanes(end - begin, [&](auto lanes) {
    Float c = hn::Zero(Floats());
    for (std::size_t j = 0; j < width; ++j) {
      c = hn::MulAdd(lanes.load(taps + j * channels + begin), lanes.load(inputs[j] + begin), c);
    }
    const auto s = sigmoid(c);
    const auto slope = hn::Mul(s, hn::MulAdd(c, hn::Sub(one, s), one));
    const auto dc = hn::Mul(lanes.load(dy + begin), slope);
    for (std::size_t j = 0; j < width; ++j) {
      const std::size_t tap = j * channels + begin;
      lanes.store(hn::MulAdd(dc, lanes.load(inputs[j] + begin), lanes.load(dtaps + tap)),
                  dtaps + tap);
      float* into = dinputs[j] + begin;
      lanes.store(hn::MulAdd(dc, lanes.load(taps + tap), lanes.load(into)), into);
    }
  });
}

// [count, width] as `width` rows of `count`, and back.
void to_rows(const float* matrix, std::size_t width, std::size_t count, float* rows) {
  const Floats d;
  std::size_t i = 0;
  if (width == 4) {
    for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
      auto a = hn::Zero(d), b = hn::Zero(d), c = hn::Zero(d), e = hn::Zero(d);
      hn::LoadInterleaved4(d, matrix + 4 * i, a, b, c, e);
      hn::StoreU(a, d, rows + i);
      hn::StoreU(b, d, rows + count + i);
      hn::StoreU(c, d, rows + 2 * count + i);
      hn::StoreU(e, d, rows + 3 * count + i);
    }
  }
  for (; i < count; ++i) {
    for (std::size_t j = 0; j < width; ++j) rows[j * count + i] = matrix[i * width + j];
  }
}

void from_rows(const float* const* rows, std::size_t width, std::size_t count, float* matrix) {
  const Floats d;
  std::size_t i = 0;
  if (width == 4) {
    for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
      const auto row = [&](std::size_t j) { return hn::LoadU(d, rows[j] + i); };
      hn::StoreInterleaved4(row(0), row(1), row(2), row(3), d, matrix + 4 * i);
    }
  }
  for (; i < count; ++i) {
    for (std::size_t j = 0; j < width; ++j) matrix[i * width + j] = rows[j][i];
  }
}

// One token of `count` channels. `before` may be null, for zeros; `after` too, and it may be
// `before`.
void step(const float* x, const float* weight, const float* before, std::size_t width,
          std::size_t count, float* y, float* after) {
  float taps[widest * step_channels], state[widest * step_channels];
  to_rows(weight, width, count, taps);
  if (before == nullptr) {
    std::fill_n(state, width * count, 0.0f);
  } else {
    to_rows(before, width, count, state);
  }
  const float* inputs[widest];
  for (std::size_t j = 0; j + 1 < width; ++j) inputs[j] = state + (j + 1) * count;
  inputs[width - 1] = x;
  forward_row(inputs, taps, width, count, y);
  if (after != nullptr) from_rows(inputs, width, count, after);
}

}  // namespace metala::short_conv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::short_conv::cpu {
HWY_EXPORT(forward_row);
HWY_EXPORT(backward_row);
HWY_EXPORT(step);

namespace {

constexpr std::int64_t rows_per_task = 16;
constexpr std::int64_t channels_per_task = 64;

// [d, W] as W rows of d.
std::vector<float> as_rows(const float* matrix, std::int64_t channels, std::int64_t width) {
  std::vector<float> rows(static_cast<std::size_t>(channels * width));
  for (std::int64_t i = 0; i < channels; ++i) {
    for (std::int64_t j = 0; j < width; ++j) {
      rows[static_cast<std::size_t>(j * channels + i)] = matrix[i * width + j];
    }
  }
  return rows;
}

void add_rows_to(float* matrix, const std::vector<float>& rows, std::int64_t channels,
                 std::int64_t width) {
  for (std::int64_t i = 0; i < channels; ++i) {
    for (std::int64_t j = 0; j < width; ++j) {
      matrix[i * width + j] += rows[static_cast<std::size_t>(j * channels + i)];
    }
  }
}

// One sequence's input rows: row(t) for t from -W on, the state's rows before token 0.
class InputRows {
 public:
  InputRows(const float* x, std::int64_t stride, std::int64_t channels, std::int64_t width,
            const float* before)
      : x_(x), stride_(stride), channels_(channels), width_(width) {
    if (before != nullptr) {
      state_ = as_rows(before, channels, width);
    } else {
      state_.assign(static_cast<std::size_t>(channels * width), 0.0f);
    }
  }

  const float* row(std::int64_t t) const {
    return t >= 0 ? x_ + t * stride_ : state_.data() + (width_ + t) * channels_;
  }

 private:
  const float* x_;
  std::int64_t stride_, channels_, width_;
  std::vector<float> state_;
};

const float* state_of(const Tensor& state, std::size_t sequence) {
  if (!state.defined()) return nullptr;
  return state.data<float>() + static_cast<std::int64_t>(sequence) * state.stride(0);
}

float* state_to(const Tensor& state, std::size_t sequence) {
  if (!state.defined()) return nullptr;
  return state.data<float>() + static_cast<std::int64_t>(sequence) * state.stride(0);
}

// Every sequence has one token.
void forward_step(const Tensor& x, const Tensor& weight, const Tensor& before, const Tensor& y,
                  const Tensor& after) {
  constexpr auto part = static_cast<std::int64_t>(step_channels);
  const std::int64_t channels = x.size(1);
  const std::int64_t width = weight.size(1);
  const std::int64_t parts = (channels + part - 1) / part;
  const auto kernel = HWY_DYNAMIC_DISPATCH(step);
  parallel_ranges(x.size(0) * parts, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t b = i / parts;
      const std::int64_t first = i % parts * part;
      const auto of = [&](auto* state) { return state ? state + first * width : nullptr; };
      const auto sequence = static_cast<std::size_t>(b);
      kernel(x.data<float>() + b * x.stride(0) + first, weight.data<float>() + first * width,
             of(state_of(before, sequence)), static_cast<std::size_t>(width),
             static_cast<std::size_t>(std::min(part, channels - first)),
             y.data<float>() + b * y.stride(0) + first, of(state_to(after, sequence)));
    }
  });
}

bool one_token_each(Offsets offsets) {
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    if (offsets[b + 1] - offsets[b] != 1) return false;
  }
  return true;
}

}  // namespace

void forward(const Tensor& x, const Tensor& weight, Offsets offsets, const Tensor& before, Tensor y,
             Tensor after) {
  if (one_token_each(offsets)) return forward_step(x, weight, before, y, after);
  const std::int64_t channels = x.size(1);
  const std::int64_t width = weight.size(1);
  const std::vector<float> taps = as_rows(weight.data<float>(), channels, width);
  const auto kernel = HWY_DYNAMIC_DISPATCH(forward_row);
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const std::int64_t tokens = offsets[b + 1] - offsets[b];
    const InputRows in(x.data<float>() + offsets[b] * x.stride(0), x.stride(0), channels, width,
                       state_of(before, b));
    float* out = y.data<float>() + offsets[b] * y.stride(0);
    parallel_ranges(tokens, rows_per_task, [&](std::int64_t begin, std::int64_t end) {
      const float* inputs[widest];
      for (std::int64_t t = begin; t < end; ++t) {
        for (std::int64_t j = 0; j < width; ++j) inputs[j] = in.row(t - (width - 1) + j);
        kernel(inputs, taps.data(), static_cast<std::size_t>(width),
               static_cast<std::size_t>(channels), out + t * y.stride(0));
      }
    });
    if (!after.defined()) continue;
    float* last = state_to(after, b);
    for (std::int64_t j = 0; j < width; ++j) {
      const float* row = in.row(tokens - width + j);
      for (std::int64_t i = 0; i < channels; ++i) last[i * width + j] = row[i];
    }
  }
}

void backward(const Tensor& dy, const Tensor& x, const Tensor& weight, Offsets offsets,
              const Tensor& before, const Tensor& dafter, Tensor dx, Tensor dweight,
              Tensor dbefore) {
  const std::int64_t channels = x.size(1);
  const std::int64_t width = weight.size(1);
  const std::vector<float> taps = as_rows(weight.data<float>(), channels, width);
  std::vector<float> dtaps(taps.size(), 0.0f);
  const auto kernel = HWY_DYNAMIC_DISPATCH(backward_row);
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const std::int64_t tokens = offsets[b + 1] - offsets[b];
    const InputRows in(x.data<float>() + offsets[b] * x.stride(0), x.stride(0), channels, width,
                       state_of(before, b));
    std::vector<float> dstate(taps.size(), 0.0f);
    const auto gradient_row = [&](std::int64_t t) {
      return t >= 0 ? dx.data<float>() + (offsets[b] + t) * dx.stride(0)
                    : dstate.data() + (width + t) * channels;
    };
    if (dafter.defined()) {
      const float* last = state_of(dafter, b);
      for (std::int64_t j = 0; j < width; ++j) {
        float* row = gradient_row(tokens - width + j);
        for (std::int64_t i = 0; i < channels; ++i) row[i] += last[i * width + j];
      }
    }
    parallel_ranges(channels, channels_per_task, [&](std::int64_t begin, std::int64_t end) {
      const float* inputs[widest];
      float* dinputs[widest];
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t j = 0; j < width; ++j) {
          inputs[j] = in.row(t - (width - 1) + j);
          dinputs[j] = gradient_row(t - (width - 1) + j);
        }
        kernel(dy.data<float>() + (offsets[b] + t) * dy.stride(0), inputs, dinputs, taps.data(),
               dtaps.data(), static_cast<std::size_t>(width), static_cast<std::size_t>(channels),
               static_cast<std::size_t>(begin), static_cast<std::size_t>(end));
      }
    });
    if (dbefore.defined()) {
      add_rows_to(dbefore.data<float>() + static_cast<std::int64_t>(b) * dbefore.stride(0), dstate,
                  channels, width);
    }
  }
  add_rows_to(dweight.data<float>(), dtaps, channels, width);
}

}  // namespace metala::short_conv::cpu
#endif
