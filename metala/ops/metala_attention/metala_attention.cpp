#include "metala/ops/metala_attention/metala_attention.h"

#include <cmath>

#include "metala/base/half.h"
#include "metala/ops/metala_attention/metala_attention_cpu.h"
#include "metala/ops/metala_attention/metala_attention_cuda.h"
#include "metala/ops/metala_attention/metala_attention_reference.h"
#include "metala/ops/metala_attention/metala_attention_transition_cuda.h"

namespace metala::metala_attention {
namespace {

constexpr std::int64_t widest = 256;

// The shapes that follow from q, v and the options.
struct Shapes {
  DType type, wide;  // of tokens; of parameters and states
  Shape key_rows, value_rows, key_channels, state;
};

Shapes shapes_of(const Options& options, const Inputs& in, Offsets offsets) {
  require(in.q.defined() && in.q.rank() == 2, "metala_attention: q must be a matrix [N, H*K]");
  require(in.v.defined() && in.v.rank() == 2, "metala_attention: v must be a matrix [N, H*D]");
  const bool fits = in.q.dtype() == DType::f32 || in.q.dtype() == DType::f64 ||
                    (is_half(in.q.dtype()) && in.q.device().is_cuda());
  require(fits, "metala_attention: q is {}; wanted f32 or f64, or bf16 or f16 on a GPU",
          name_of(in.q.dtype()));
  const auto heads = options.heads;
  const auto check_width = [heads](const char* name, std::int64_t width) {
    require(
        heads >= 1 && width >= heads && width % heads == 0 && width / heads <= widest,
        "metala_attention: {} has {} columns for {} heads; wanted a multiple of the heads, from "
        "1 to {} for each",
        name, width, heads, widest);
  };
  check_width("q", in.q.size(1));
  check_width("v", in.v.size(1));
  require(std::isfinite(options.temperature) && options.temperature > 0,
          "metala_attention: temperature is {}; wanted a positive number", options.temperature);
  require(std::isfinite(options.scale), "metala_attention: scale is {}; wanted a finite number",
          options.scale);
  check_offsets("metala_attention", offsets, in.q.size(0));
  return {in.q.dtype(),   accumulation_type(in.q.dtype()),
          in.q.shape(),   {in.q.size(0), in.v.size(1)},
          {in.q.size(1)}, {batch_of(offsets), heads, in.q.size(1) / heads, in.v.size(1) / heads}};
}

Shapes check_inputs(const Options& options, const Inputs& in, Offsets offsets) {
  const Shapes s = shapes_of(options, in, offsets);
  check_tensor("metala_attention: q", in.q, s.key_rows, s.type);
  check_tensor("metala_attention: v", in.v, s.value_rows, s.type);
  check_optional("metala_attention: u", in.u, s.key_rows, s.type);
  check_optional("metala_attention: k", in.k, s.key_rows, s.type);
  check_optional("metala_attention: z", in.z, s.value_rows, s.type);
  check_optional("metala_attention: aug", in.aug, s.key_channels, s.wide);
  check_optional("metala_attention: fixed_decay", in.fixed_decay, s.key_channels, s.wide);
  check_optional("metala_attention: before", in.before, s.state, s.wide);
  require(!in.u.defined() || !in.fixed_decay.defined(),
          "metala_attention: both u and fixed_decay are given; pass one of them");
  require(in.u.defined() || in.fixed_decay.defined() || in.k.defined(),
          "metala_attention: k is absent, and without decay (no u, no fixed_decay) there is no "
          "gate to tie it to; pass k");
  require(!options.bidirectional || !in.before.defined(),
          "metala_attention: before is given, but a bidirectional pass carries no state");
  return s;
}

// A gradient needs the input it belongs to.
void check_gradient(const char* name, const Tensor& gradient, const Tensor& input,
                    const Shape& wanted, DType type) {
  check_optional(fmt::format("metala_attention: gradient of {}", name), gradient, wanted, type);
  require(!gradient.defined() || input.defined(),
          "metala_attention: gradient of {} is asked for, but there is no {}", name, name);
}

void check_states(const Options& options, const Inputs& in, Offsets offsets, const Tensor& states) {
  if (!states.defined()) return;
  check_tensor("metala_attention: states", states, states_shape(options, in, offsets), DType::bf16);
}

}  // namespace

Gradients prepared(const Gradients& to) {
  for (const Tensor* t : {&to.q, &to.u, &to.k, &to.v, &to.z}) prepare(*t, to.tokens);
  Gradients ready = to;
  ready.tokens = Write::accumulate;
  return ready;
}

Shape states_shape(const Options& options, const Inputs& in, Offsets offsets) {
  check_inputs(options, in, offsets);
  if constexpr (cuda_built) {
    if (in.q.device().is_cuda()) return cuda::states_shape(options, in, offsets);
  }
  return {0};
}

void forward(const Options& options, const Inputs& in, Offsets offsets, Tensor o, Tensor mixed,
             Tensor after, Tensor states) {
  const Shapes s = check_inputs(options, in, offsets);
  check_tensor("metala_attention: o", o, s.value_rows, s.type);
  check_optional("metala_attention: mixed", mixed, s.value_rows, s.type);
  check_optional("metala_attention: after", after, s.state, s.wide);
  require(!options.bidirectional || !after.defined(),
          "metala_attention: after is given, but a bidirectional pass carries no state");
  check_states(options, in, offsets, states);
  if constexpr (cuda_built) {
    if (in.q.device().is_cuda()) {
      return cuda::forward(options, in, offsets, o, mixed, after, states);
    }
  }
  if (s.type == DType::f64) {
    return reference::forward<double>(options, in, offsets, o, mixed, after);
  }
  return cpu::forward(options, in, offsets, o, mixed, after);
}

void transition(const Options& options, const Inputs& in, Offsets offsets, Tensor added,
                Tensor decay, Tensor room) {
  const Shapes s = check_inputs(options, in, offsets);
  check_tensor("metala_attention: added", added, s.state, s.wide);
  check_tensor("metala_attention: decay", decay, {s.state[0], s.state[1], s.state[2]}, s.wide);
  require(!options.bidirectional && !in.before.defined(),
          "metala_attention: a transition runs one way, from a state of zero");
  if constexpr (cuda_built) {
    if (in.q.device().is_cuda()) {
      check_tensor("metala_attention: room", room, s.value_rows, s.type);
      return cuda::transition(options, in, offsets, added, decay, room);
    }
  }
  if (s.type == DType::f64) {
    return reference::transition<double>(options, in, offsets, added, decay);
  }
  return cpu::transition(options, in, offsets, added, decay);
}

void backward(const Options& options, const Inputs& in, Offsets offsets, const Tensor& mixed,
              const Tensor& do_, const Tensor& dafter, const Gradients& to, const Tensor& states) {
  const Shapes s = check_inputs(options, in, offsets);
  check_tensor("metala_attention: mixed", mixed, s.value_rows, s.type);
  check_tensor("metala_attention: do_", do_, s.value_rows, s.type);
  check_optional("metala_attention: dafter", dafter, s.state, s.wide);
  require(!options.bidirectional || !dafter.defined(),
          "metala_attention: dafter is given, but a bidirectional pass carries no state");
  check_optional("metala_attention: o", to.o, s.value_rows, s.type);
  require(!to.o.defined() || in.q.device().is_cuda(),
          "metala_attention: o is found again on a GPU only");
  check_gradient("q", to.q, in.q, s.key_rows, s.type);
  check_gradient("u", to.u, in.u, s.key_rows, s.type);
  check_gradient("k", to.k, in.k, s.key_rows, s.type);
  check_gradient("v", to.v, in.v, s.value_rows, s.type);
  check_gradient("z", to.z, in.z, s.value_rows, s.type);
  check_gradient("aug", to.aug, in.aug, s.key_channels, s.wide);
  check_gradient("fixed_decay", to.fixed_decay, in.fixed_decay, s.key_channels, s.wide);
  // The state's gradient exists even where the state was zero and absent.
  check_optional("metala_attention: gradient of before", to.before, s.state, s.wide);
  require(!options.bidirectional || !to.before.defined(),
          "metala_attention: gradient of before is asked for, but a bidirectional pass carries no "
          "state");
  check_states(options, in, offsets, states);
  if constexpr (cuda_built) {
    if (in.q.device().is_cuda()) {
      if (cuda::backward_to_before(options, in, offsets, mixed, do_, dafter, to)) return;
      return cuda::backward(options, in, offsets, mixed, do_, dafter, to, states);
    }
  }
  if (s.type == DType::f64) {
    return reference::backward<double>(options, in, offsets, mixed, do_, dafter, prepared(to));
  }
  return cpu::backward(options, in, offsets, mixed, do_, dafter, prepared(to));
}

}  // namespace metala::metala_attention
