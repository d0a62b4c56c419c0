// Hands the heads of all sequences to the threads, each with memory of its own.
#include "metala/ops/metala_attention/metala_attention_cpu.h"

#include <algorithm>

#include "metala/base/threads.h"
#include "metala/ops/metala_attention/metala_attention_forms.h"
#include "metala/ops/metala_attention/metala_attention_scratch.h"

namespace metala::metala_attention::cpu {
namespace {

// From this many tokens a block, however empty, beats as many steps (README, "Ladder").
constexpr std::int64_t fewest_for_chunk = 6;

// A row of memory for each thread that may work on heads. Allocated before the threads start, since
// an exception must not leave them.
class ThreadMemory {
 public:
  ThreadMemory(std::size_t floats, bool zeroed) {
    const Shape shape = {alone_ ? 1 : thread_count(), static_cast<std::int64_t>(padded(floats))};
    rows_ = zeroed ? Tensor::zeros(shape) : Tensor::uninitialized(shape);
  }
  float* mine() const {
    return rows_.data<float>() + (alone_ ? 0 : thread_index()) * rows_.stride(0);
  }

 private:
  bool alone_ = in_parallel();
  Tensor rows_;
};

std::int64_t longest(Offsets offsets) {
  std::int64_t most = 0;
  for (std::size_t b = 1; b < offsets.size(); ++b) {
    most = std::max(most, offsets[b] - offsets[b - 1]);
  }
  return most;
}

// [H*K] sums over all tokens: each sequence has its own row, and the rows are added in order, so
// the result does not depend on which thread was first.
class SumOverSequences {
 public:
  SumOverSequences(const Tensor& sum, std::int64_t sequences) : sum_(sum) {
    if (sum.defined()) rows_ = Tensor::zeros({sequences, sum.size(0)});
  }
  Tensor row(std::int64_t sequence) const {
    return sum_.defined() ? rows_.row(sequence) : Tensor();
  }
  void add() const {
    for (std::int64_t b = 0; sum_.defined() && b < rows_.size(0); ++b) {
      for (std::int64_t i = 0; i < sum_.size(0); ++i) {
        sum_.data<float>()[i] += rows_.data<float>()[b * rows_.stride(0) + i];
      }
    }
  }

 private:
  Tensor sum_, rows_;
};

}  // namespace

void forward(const Options& options, const Inputs& in, Offsets offsets, const Tensor& o,
             const Tensor& mixed, const Tensor& after, Form form) {
  const auto key_width = static_cast<std::size_t>(in.q.size(1) / options.heads);
  const auto value_width = static_cast<std::size_t>(in.v.size(1) / options.heads);
  const auto by_step = [&](std::int64_t tokens) {
    if (options.bidirectional || form == Form::chunk) return false;
    return form == Form::step || tokens < fewest_for_chunk;
  };
  Carver counted(nullptr);
  const ForwardScratch layout(counted, key_width, value_width);
  const bool all_by_step = by_step(longest(offsets));
  const std::size_t spare = after.defined() ? 0 : key_width * value_width;
  const ThreadMemory scratch(all_by_step ? spare : std::max(counted.used(), spare), !all_by_step);

  parallel_tasks(batch_of(offsets) * options.heads, [&](std::int64_t task) {
    const auto b = task / options.heads;
    const auto h = task % options.heads;
    const auto head = head_of<float>(options, in, offsets, b, h);
    const auto out = outputs_of(head, o, mixed, after, offsets, b, h);
    if (by_step(head.tokens)) {
      step_forward(head, out, scratch.mine());
    } else {
      chunk_forward(head, out, scratch.mine());
    }
  });
}

void transition(const Options& options, const Inputs& in, Offsets offsets, const Tensor& added,
                const Tensor& decay) {
  Carver counted(nullptr);
  const ForwardScratch layout(counted, static_cast<std::size_t>(added.size(2)),
                              static_cast<std::size_t>(added.size(3)));
  const ThreadMemory scratch(counted.used(), true);
  parallel_tasks(batch_of(offsets) * options.heads, [&](std::int64_t task) {
    const auto b = task / options.heads;
    const auto h = task % options.heads;
    chunk_transition(head_of<float>(options, in, offsets, b, h), state_rows<float>(added, b, h),
                     decay.data<float>() + b * decay.stride(0) + h * decay.stride(1),
                     scratch.mine());
  });
}

void backward(const Options& options, const Inputs& in, Offsets offsets, const Tensor& mixed,
              const Tensor& do_, const Tensor& dafter, const Gradients& to) {
  Carver counted(nullptr);
  const BackwardScratch layout(counted, static_cast<std::size_t>(in.q.size(1) / options.heads),
                               static_cast<std::size_t>(in.v.size(1) / options.heads));
  const ThreadMemory scratch(counted.used(), true);
  const auto states =
      static_cast<std::size_t>(kept_states(std::max<std::int64_t>(longest(offsets), 1)));
  const ThreadMemory kept(states * layout.keys * layout.values, false);
  const SumOverSequences aug(to.aug, batch_of(offsets));
  const SumOverSequences fixed_decay(to.fixed_decay, batch_of(offsets));

  parallel_tasks(batch_of(offsets) * options.heads, [&](std::int64_t task) {
    const auto b = task / options.heads;
    const auto h = task % options.heads;
    const auto head = head_of<float>(options, in, offsets, b, h);
    Gradients own = to;
    own.aug = aug.row(b);
    own.fixed_decay = fixed_decay.row(b);
    chunk_backward(head, gradients_of(head, mixed, do_, dafter, own, offsets, b, h), scratch.mine(),
                   kept.mine());
  });
  aug.add();
  fixed_decay.add();
}

}  // namespace metala::metala_attention::cpu
