#include "metala/autograd/context_parallel.h"

#include <algorithm>
#include <vector>

#include "metala/autograd/context_parallel_cuda.h"
#include "metala/base/profile.h"
#include "metala/base/threads.h"
#include "metala/ops/short_conv/short_conv.h"

namespace metala::context_parallel {
namespace {

// Calls f with a value of the tensor's type.
template <class F>
void with_type(const Tensor& t, F f) {
  if (t.dtype() == DType::f64) return f(double{});
  f(float{});
}

// Calls f(row of x or dx, place in the state) for the last W tokens of each sequence: the state
// [B, d, W] of a convolution, oldest first.
template <class F>
void for_last_tokens(Offsets offsets, std::int64_t width, F f) {
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    for (std::int64_t j = 0; j < width; ++j) {
      const std::int64_t row = offsets[b + 1] - width + j;
      if (row >= offsets[b]) f(row, static_cast<std::int64_t>(b), j);
    }
  }
}

void take_last_inputs(const Tensor& x, Offsets offsets, const Tensor& state) {
  if constexpr (cuda_built) {
    if (x.device().is_cuda()) return cuda::take_last_inputs(x, offsets, state);
  }
  with_type(x, [&]<class T>(T) {
    for_last_tokens(offsets, state.size(2), [&](std::int64_t row, std::int64_t b, std::int64_t j) {
      const T* from = x.data<T>() + row * x.stride(0);
      T* to = state.data<T>() + b * state.stride(0) + j;
      for (std::int64_t i = 0; i < x.size(1); ++i) to[i * state.stride(1)] = from[i];
    });
  });
}

void add_last_gradients(const Tensor& state, Offsets offsets, const Tensor& dx) {
  if constexpr (cuda_built) {
    if (dx.device().is_cuda()) return cuda::add_last_gradients(state, offsets, dx);
  }
  with_type(dx, [&]<class T>(T) {
    for_last_tokens(offsets, state.size(2), [&](std::int64_t row, std::int64_t b, std::int64_t j) {
      const T* from = state.data<T>() + b * state.stride(0) + j;
      T* to = dx.data<T>() + row * dx.stride(0);
      for (std::int64_t i = 0; i < dx.size(1); ++i) to[i] += from[i * state.stride(1)];
    });
  });
}

// state = decay state + addition; states [B, H, K, D], decay [B, H, K] in one piece.
void pass_on(const Tensor& state, const Tensor& decay, const Tensor& addition) {
  if constexpr (cuda_built) {
    if (state.device().is_cuda()) return cuda::pass_on(state, decay, addition);
  }
  const std::int64_t width = state.size(3);
  with_type(state, [&]<class T>(T) {
    parallel_ranges(decay.count(), 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        T* s = state.data<T>() + row * width;
        const T* a = addition.data<T>() + row * width;
        const T kept = decay.data<T>()[row];
        for (std::int64_t j = 0; j < width; ++j) s[j] = kept * s[j] + a[j];
      }
    });
  });
}

// What each rank does to a state that passes through it.
class Transitions {
 public:
  Transitions(Arena& arena, Communicator& ranks, Shape state, DType type)
      : ranks_(ranks), state_(state), rows_(state[0] * state[1] * state[2]) {
    all_ = arena.uninitialized({ranks.size(), rows_ * (state[3] + 1)}, type);
  }

  Tensor added(int rank) const { return all_.row(rank).rows(0, rows_ * state_[3]).reshape(state_); }
  Tensor decay(int rank) const {
    return all_.row(rank)
        .rows(rows_ * state_[3], rows_ * (state_[3] + 1))
        .reshape({state_[0], state_[1], state_[2]});
  }
  // This rank's are there; those of the others come.
  void gather() const {
    const Tensor flat = all_.reshape({all_.count()});
    const std::int64_t each = all_.size(1);
    ranks_.all_gather(flat.rows(ranks_.rank() * each, (ranks_.rank() + 1) * each), flat,
                      "states between parts of sequences");
  }
  Tensor initial_state(Arena& arena) const {
    const Tensor state = arena.zeros(state_, all_.dtype());
    for (int rank = 0; rank < ranks_.rank(); ++rank) pass_on(state, decay(rank), added(rank));
    return state;
  }
  // From all ranks' gradients of their initial states when those of their final ones are zero:
  // pulled, in the order of ranks.
  Tensor final_gradient(Arena& arena, const Tensor& pulled) const {
    const Tensor gradient = arena.zeros(state_, all_.dtype());
    for (int rank = ranks_.size() - 1; rank > ranks_.rank(); --rank) {
      pass_on(gradient, decay(rank), pulled.row(rank).reshape(state_));
    }
    return gradient;
  }

 private:
  Communicator& ranks_;
  Shape state_;
  std::int64_t rows_;
  Tensor all_;  // [ranks, added and then decay]
};

}  // namespace

Variable short_conv(Tape& tape, Communicator& ranks, const Variable& x, const Variable& weight,
                    Offsets offsets) {
  const profile::Scope scope("short conv");
  const Tensor& in = x.value();
  const Variable y = tape.intermediate(in.shape(), in.dtype());
  const Shape state = {batch_of(offsets), in.size(1), weight.value().size(1)};
  const DType state_type = accumulation_type(in.dtype());
  const int rank = ranks.rank();
  const bool first = rank == 0, last = rank + 1 == ranks.size();
  const Tensor before = first ? Tensor() : tape.arena().zeros(state, state_type);
  {
    const ArenaScope sent(tape.arena());
    const Tensor halo = last ? Tensor() : tape.arena().zeros(state, state_type);
    if (!last) take_last_inputs(in, offsets, halo);
    ranks.exchange(halo, rank + 1, before, rank - 1, "inputs of the convolution");
  }
  short_conv::forward(in, weight.value(), offsets, before, y.value(), {});
  if (!tape.recording()) return y;
  tape.record([=, &ranks, arena = &tape.arena()] {
    const profile::Scope back("short conv, backward");
    const Tensor dx = x.gradient();
    const ArenaScope exchanged(*arena);
    const Tensor dbefore = first ? Tensor() : arena->zeros(state, state_type);
    short_conv::backward(y.gradient(), x.value(), weight.value(), offsets, before, {}, dx,
                         weight.gradient(), dbefore);
    const Tensor dafter = last ? Tensor() : arena->zeros(state, state_type);
    ranks.exchange(dbefore, rank - 1, dafter, rank + 1, "gradients of the convolution's inputs");
    if (!last) add_last_gradients(dafter, offsets, dx);
  });
  return y;
}

Variable metala_attention(Tape& tape, Communicator& ranks, const metala_attention::Options& options,
                          const functions::AttentionInputs& in, Offsets offsets) {
  require(!options.bidirectional,
          "context parallelism: a bidirectional model has no state to pass");
  const profile::Scope scope("attention");
  const Tensor& v = in.v.value();
  const Variable o = tape.intermediate(v.shape(), v.dtype());
  const Tensor mixed =
      tape.recording() ? tape.arena().uninitialized(v.shape(), v.dtype()) : Tensor();
  metala_attention::Inputs inputs = {
      value_of(in.q), value_of(in.u),   value_of(in.k),           v,
      value_of(in.z), value_of(in.aug), value_of(in.fixed_decay), {}};
  const Shape state = {batch_of(offsets), options.heads, inputs.q.size(1) / options.heads,
                       v.size(1) / options.heads};
  const DType state_type = accumulation_type(v.dtype());
  const Transitions transitions(tape.arena(), ranks, state, state_type);
  metala_attention::transition(options, inputs, offsets, transitions.added(ranks.rank()),
                               transitions.decay(ranks.rank()), o.value());
  transitions.gather();
  inputs.before = transitions.initial_state(tape.arena());
  metala_attention::forward(options, inputs, offsets, o.value(), mixed, {});
  if (!tape.recording()) return o;
  tape.record([=, &ranks, arena = &tape.arena()] {
    const profile::Scope back("attention, backward");
    const metala_attention::Gradients gradients = {
        gradient_of(in.q), gradient_of(in.u),   gradient_of(in.k),           gradient_of(in.v),
        gradient_of(in.z), gradient_of(in.aug), gradient_of(in.fixed_decay), {}};
    const Tensor do_ = o.gradient();
    const ArenaScope exchanged(*arena);
    const Tensor pulled = arena->zeros({ranks.size(), state.count()}, state_type);
    const Tensor mine = pulled.row(ranks.rank());
    metala_attention::Gradients only_before;
    only_before.before = mine.reshape(state);
    metala_attention::backward(options, inputs, offsets, mixed, do_, {}, only_before);
    ranks.all_gather(mine, pulled.reshape({pulled.count()}),
                     "gradients of states between parts of sequences");
    metala_attention::backward(options, inputs, offsets, mixed, do_,
                               transitions.final_gradient(*arena, pulled), gradients);
  });
  return o;
}

}  // namespace metala::context_parallel
