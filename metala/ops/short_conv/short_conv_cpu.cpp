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

}  // namespace metala::short_conv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::short_conv::cpu {
HWY_EXPORT(forward_row);
HWY_EXPORT(backward_row);

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

}  // namespace

void forward(const Tensor& x, const Tensor& weight, Offsets offsets, const Tensor& before, Tensor y,
             Tensor after) {
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
      const float* inputs[16];
      for (std::int64_t t = begin; t < end; ++t) {
        for (std::int64_t j = 0; j < width; ++j) inputs[j] = in.row(t - (width - 1) + j);
        kernel(inputs, taps.data(), static_cast<std::size_t>(width),
               static_cast<std::size_t>(channels), out + t * y.stride(0));
      }
    });
    if (!after.defined()) continue;
    float* last = after.data<float>() + static_cast<std::int64_t>(b) * after.stride(0);
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
      const float* inputs[16];
      float* dinputs[16];
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
