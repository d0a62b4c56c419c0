#include "metala/autograd/functions.h"

#include <algorithm>

#include "metala/base/profile.h"
#include "metala/base/threads.h"
#include "metala/device/cuda/matrix_product_cuda.h"
#include "metala/device/mirror.h"
#include "metala/ops/embedding/embedding.h"
#include "metala/ops/layer_norm/layer_norm.h"
#include "metala/ops/linear/linear.h"
#include "metala/ops/rms_norm/rms_norm.h"
#include "metala/ops/short_conv/short_conv.h"

namespace metala::functions {
namespace {

// On the CPU activations are as wide as sums; on a GPU they have the type of the weights.
DType activation_type(const Variable& weight) {
  const DType type = weight.value().dtype();
  return weight.value().device().is_cuda() ? type : accumulation_type(type);
}

void add_into(const Tensor& from, const Tensor& to) {
  const profile::Scope scope("residual");
  if constexpr (cuda_built) {
    if (to.device().is_cuda()) return cuda::add(from, to);
  }
  const auto add_rows = [&]<class T>(T) {
    parallel_ranges(from.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t n = begin; n < end; ++n) {
        const T* in = from.data<T>() + n * from.stride(0);
        T* out = to.data<T>() + n * to.stride(0);
        for (std::int64_t i = 0; i < from.size(1); ++i) out[i] += in[i];
      }
    });
  };
  if (from.dtype() == DType::f64) return add_rows(double{});
  return add_rows(float{});
}

// Where residual + something goes: fresh memory when the residual's old value may be needed for
// gradients, else the residual itself.
Variable sum_target(const Tape& tape, const Variable& residual) {
  if (!tape.recording()) return residual;
  return tape.intermediate(residual.value().shape(), residual.value().dtype());
}

void copy_onto(const Tensor& from, const Tensor& to) {
  if (from.raw() != to.raw()) to.copy_from(from);
}

// The gradient of residual + something is that of its sum, which is read no more: last in a record.
void pull_back_residual(const Variable& y, const Variable& residual) {
  residual.take_gradient(y.gradient(), add_into);
}

void pull_back_linear(const Variable& y, const Variable& x, const Variable& weight,
                      const Variable& bias) {
  const Tensor dy = y.gradient();
  if (x.needs_gradient()) {
    const auto [dx, write] = x.gradient_slot();
    linear::backward_input(dy, weight.value(), dx, write);
  }
  if (weight.needs_gradient()) {
    linear::backward_weight(dy, x.value(), weight.gradient(), gradient_of(bias));
  }
}

// The gradients of several variables, all to be written if all are blank and different, else all to
// be added to. Absent variables have none.
struct Slots {
  std::vector<Tensor> tensors;
  Write write;
};

Slots slots_of(const std::vector<Variable>& variables) {
  std::vector<GradientSlot> slots;
  for (const Variable& v : variables) {
    slots.push_back(v.defined() ? v.gradient_slot() : GradientSlot());
  }
  const auto fresh = [](const GradientSlot& slot) {
    return !slot.tensor.defined() || slot.write == Write::overwrite;
  };
  Slots all = {
      {}, std::all_of(slots.begin(), slots.end(), fresh) ? Write::overwrite : Write::accumulate};
  for (const GradientSlot& slot : slots) {
    if (all.write == Write::accumulate) prepare(slot.tensor, slot.write);
    all.tensors.push_back(slot.tensor);
  }
  return all;
}

}  // namespace

Variable embedding(Tape& tape, Ids ids, const Variable& table, double scale,
                   std::int32_t frozen_id) {
  const profile::Scope scope("embedding");
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const Variable y = tape.intermediate({tokens, table.value().size(1)}, activation_type(table));
  embedding::forward(ids, table.value(), scale, y.value());
  if (tape.recording() && table.needs_gradient()) {
    tape.record(
        [=] { embedding::backward(ids, y.gradient(), scale, table.gradient(), frozen_id); });
  }
  return y;
}

Variable rms_norm(Tape& tape, const Variable& x, double eps) {
  const profile::Scope scope("norm");
  const Tensor& in = x.value();
  const Variable y = tape.intermediate(in.shape(), in.dtype());
  if (!tape.recording()) {
    rms_norm::forward(in, eps, y.value());
    return y;
  }
  const Tensor inverse_rms =
      tape.arena().uninitialized({in.size(0)}, accumulation_type(in.dtype()));
  rms_norm::forward(in, eps, y.value(), inverse_rms);
  tape.record([=] {
    const profile::Scope back("norm, backward");
    const auto [dx, write] = x.gradient_slot();
    rms_norm::backward(y.gradient(), y.value(), inverse_rms, dx, write);
  });
  return y;
}

Variable layer_norm(Tape& tape, const Variable& x, const Variable& weight, const Variable& bias,
                    double eps) {
  const profile::Scope scope("norm");
  const Tensor& in = x.value();
  const Variable y = tape.intermediate(in.shape(), in.dtype());
  if (!tape.recording()) {
    layer_norm::forward(in, value_of(weight), value_of(bias), eps, y.value());
    return y;
  }
  const Tensor mean = tape.arena().uninitialized({in.size(0)}, accumulation_type(in.dtype()));
  const Tensor inverse_std =
      tape.arena().uninitialized({in.size(0)}, accumulation_type(in.dtype()));
  layer_norm::forward(in, value_of(weight), value_of(bias), eps, y.value(), mean, inverse_std);
  tape.record([=] {
    const profile::Scope back("norm, backward");
    layer_norm::backward(y.gradient(), x.value(), value_of(weight), mean, inverse_std, x.gradient(),
                         gradient_of(weight), gradient_of(bias));
  });
  return y;
}

Variable linear(Tape& tape, const Variable& x, const Variable& weight, const Variable& bias) {
  const Tensor& in = x.value();
  const Variable y = tape.intermediate({in.size(0), weight.value().size(0)}, in.dtype());
  linear::forward(in, weight.value(), value_of(bias), y.value());
  if (tape.recording()) tape.record([=] { pull_back_linear(y, x, weight, bias); });
  return y;
}

Variable add_linear(Tape& tape, const Variable& residual, const Variable& x, const Variable& weight,
                    const Variable& bias) {
  const Variable y = sum_target(tape, residual);
  linear::forward_onto(residual.value(), x.value(), weight.value(), value_of(bias), y.value());
  if (tape.recording()) {
    tape.record([=] {
      pull_back_linear(y, x, weight, bias);
      pull_back_residual(y, residual);
    });
  }
  return y;
}

Variable add(Tape& tape, const Variable& residual, const Variable& x) {
  const Variable y = sum_target(tape, residual);
  copy_onto(residual.value(), y.value());
  add_into(x.value(), y.value());
  if (tape.recording()) {
    tape.record([=] {
      if (x.needs_gradient()) add_into(y.gradient(), x.gradient());
      pull_back_residual(y, residual);
    });
  }
  return y;
}

Variable glu(Tape& tape, glu::Activation activation, const Variable& a, const Variable& b) {
  const profile::Scope scope("glu");
  const Variable y = tape.intermediate(a.value().shape(), a.value().dtype());
  glu::forward(activation, a.value(), value_of(b), y.value());
  if (tape.recording()) {
    tape.record([=] {
      const profile::Scope back("glu, backward");
      const auto [gradients, write] = slots_of({a, b});
      glu::backward(activation, a.value(), value_of(b), y.gradient(), gradients[0], gradients[1],
                    write);
    });
  }
  return y;
}

Variable dropout(Tape& tape, const dropout::Mask& mask, const Variable& x) {
  const profile::Scope scope("dropout");
  const Variable y = tape.intermediate(x.value().shape(), x.value().dtype());
  dropout::forward(mask, x.value(), y.value());
  if (tape.recording()) {
    tape.record([=] {
      const profile::Scope back("dropout, backward");
      dropout::backward(mask, y.gradient(), x.gradient());
    });
  }
  return y;
}

Variable short_conv(Tape& tape, const Variable& x, const Variable& weight, Offsets offsets,
                    const Carried& state) {
  const profile::Scope scope("short conv");
  const Variable y = tape.intermediate(x.value().shape(), x.value().dtype());
  short_conv::forward(x.value(), weight.value(), offsets, value_of(state.before), y.value(),
                      value_of(state.after));
  if (tape.recording()) {
    tape.record([=] {
      const profile::Scope back("short conv, backward");
      const auto [dx, write] = x.gradient_slot();
      short_conv::backward(y.gradient(), x.value(), weight.value(), offsets, value_of(state.before),
                           gradient_of(state.after), dx, weight.gradient(),
                           gradient_of(state.before), write);
    });
  }
  return y;
}

Variable metala_attention(Tape& tape, const metala_attention::Options& options,
                          const AttentionInputs& in, Offsets offsets, const Carried& state) {
  const profile::Scope scope("attention");
  const Tensor& v = in.v.value();
  const Variable o = tape.intermediate(v.shape(), v.dtype());
  const Tensor mixed =
      tape.recording() ? tape.arena().uninitialized(v.shape(), v.dtype()) : Tensor();
  const metala_attention::Inputs inputs = {
      value_of(in.q), value_of(in.u),   value_of(in.k),           value_of(in.v),
      value_of(in.z), value_of(in.aug), value_of(in.fixed_decay), value_of(state.before)};
  metala_attention::forward(options, inputs, offsets, o.value(), mixed, value_of(state.after));
  if (tape.recording()) {
    tape.record([=] {
      const profile::Scope back("attention, backward");
      const auto [d, write] = slots_of({in.q, in.u, in.k, in.v, in.z});
      const metala_attention::Gradients gradients = {d[0],
                                                     d[1],
                                                     d[2],
                                                     d[3],
                                                     d[4],
                                                     gradient_of(in.aug),
                                                     gradient_of(in.fixed_decay),
                                                     gradient_of(state.before),
                                                     write};
      metala_attention::backward(options, inputs, offsets, mixed, o.gradient(),
                                 gradient_of(state.after), gradients);
    });
  }
  return o;
}

void cross_entropy(Tape& tape, const Variable& x, const Variable& weight, Ids given, double scale,
                   const Tensor& sums) {
  const profile::Scope scope("cross entropy");
  const Ids labels = mirrored(tape.arena(), given);
  if (!tape.recording()) return cross_entropy::forward(x.value(), weight.value(), labels, sums);
  cross_entropy::forward_backward(x.value(), weight.value(), labels, scale, x.gradient(),
                                  weight.gradient(), sums);
}

Variable scoped(Tape& tape, const Variable& x,
                const std::function<Variable(Tape&, const Variable&)>& f) {
  if (!tape.recording()) {
    const ArenaScope scope(tape.arena());  // the result lies in x
    return f(tape, x);
  }
  const auto mark = std::make_shared<Arena::Mark>();
  tape.record([=, &arena = tape.arena()] { arena.rewind(*mark); });  // played last
  const Variable y = f(tape, x);
  tape.record([=, &arena = tape.arena()] {  // played first
    // Both gradients must outlive the scope, so they have their memory before it.
    y.reserve_gradient();
    x.reserve_gradient();
    *mark = arena.mark();
  });
  return y;
}

Variable recomputed(Tape& tape, const Variable& x,
                    const std::function<Variable(Tape&, const Variable&)>& f) {
  if (!tape.recording()) return f(tape, x);
  const Variable y = sum_target(tape, x);
  copy_onto(x.value(), y.value());
  {
    const ArenaScope scope(tape.arena());
    Tape computing(tape.arena(), Tape::Mode::compute);
    const Variable result = f(computing, Variable::constant(y.value()));
    require(result.value().raw() == y.value().raw(),
            "autograd: a recomputed function must end by adding into its input");
  }
  tape.record([=, &tape] {
    // Both gradients must outlive the scope of the second run, so they are asked for before it.
    const Tensor dy = y.gradient();
    const Tensor dx = x.gradient();
    const ArenaScope scope(tape.arena());
    Tape again(tape.arena(), Tape::Mode::record);
    const Variable result = f(again, Variable::leaf(x.value(), dx));
    result.gradient().copy_from(dy);
    again.backward();
  });
  return y;
}

}  // namespace metala::functions
