#include "metala/autograd/functions.h"

#include <algorithm>

#include "metala/base/joined.h"
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
// gradients, else the residual's own.
Variable sum_target(const Tape& tape, const Variable& residual, Residual fate = Residual::kept) {
  if (!tape.recording()) return residual;
  if (fate == Residual::spent) return tape.intermediate(residual.value());
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

// The weights of several projections as one matrix, and their gradients; undefined where they do
// not lie so.
struct Stack {
  Tensor value, gradient;
};

Stack stack_of(const Tape& tape, const std::vector<Projection>& projections) {
  // Weights of a file may lie together by chance, and what a model computes must not depend on it.
  if (!tape.recording() && projections[0].weight.value().device().is_cpu()) return {};
  std::vector<Tensor> values, gradients;
  for (const auto& [weight, bias] : projections) {
    values.push_back(weight.value());
    if (weight.needs_gradient()) gradients.push_back(weight.gradient());
  }
  const Stack stack = {joined(values), joined(gradients)};
  const bool whole =
      gradients.empty() || (gradients.size() == values.size() && stack.gradient.defined());
  return whole ? stack : Stack();
}

// The results of projections that share a product, as slices of its columns, with their biases.
struct Columns {
  std::vector<Variable> parts;
  std::vector<Projection> projections;
  // Of the product: made when a gradient of a part is first asked for.
  std::shared_ptr<Tensor> dy = std::make_shared<Tensor>();

  Columns(const Tape& tape, const Tensor& y, std::vector<Projection> given)
      : projections(std::move(given)) {
    std::int64_t begin = 0;
    for (const auto& [weight, bias] : projections) {
      const std::int64_t end = begin + weight.value().size(0);
      const auto part_of_dy = [dy = dy, shape = y.shape(), type = y.dtype(), begin, end,
                               &arena = tape.arena()] {
        if (!dy->defined()) *dy = arena.uninitialized(shape, type);
        return dy->slice(1, begin, end);
      };
      parts.push_back(tape.intermediate(y.slice(1, begin, end), part_of_dy));
      if (bias.defined()) linear::add_bias(bias.value(), parts.back().value());
      begin = end;
    }
  }

  // The product's, whole; zero where nothing reaches. The biases get theirs.
  Tensor gradient() const {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const Tensor part = parts[i].gradient();
      const Variable& bias = projections[i].bias;
      if (bias.needs_gradient()) linear::backward_bias(part, bias.gradient());
    }
    return *dy;
  }
};

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

namespace {

std::vector<Variable> linear_each(Tape& tape, const Variable& x,
                                  const std::vector<Projection>& projections) {
  const Tensor& in = x.value();
  std::vector<Variable> results;
  std::vector<linear::Map> maps;
  std::vector<Tensor> matrices;
  for (const auto& [weight, bias] : projections) {
    matrices.push_back(weight.value());
    const Variable y = tape.intermediate({in.size(0), weight.value().size(0)}, in.dtype());
    results.push_back(y);
    maps.push_back({weight.value(), value_of(bias), y.value()});
    if (!tape.recording()) continue;
    tape.record([y, x, weight = weight, bias = bias] { pull_back_linear(y, x, weight, bias); });
  }
  tape.tell_of_product(in, matrices);
  linear::forward(in, maps);
  return results;
}

}  // namespace

Variable linear(Tape& tape, const Variable& x, const Variable& weight, const Variable& bias) {
  return linear_each(tape, x, {{weight, bias}}).front();
}

std::vector<Variable> linear(Tape& tape, const Variable& x,
                             const std::vector<Projection>& projections) {
  const Stack stack = stack_of(tape, projections);
  if (!stack.value.defined()) return linear_each(tape, x, projections);
  const Tensor& in = x.value();
  const Tensor y = tape.arena().uninitialized({in.size(0), stack.value.size(0)}, in.dtype());
  linear::forward(in, stack.value, {}, y);
  const Columns columns(tape, y, projections);
  if (tape.recording()) {
    tape.record([=] {
      const Tensor dy = columns.gradient();
      if (x.needs_gradient()) {
        const auto [dx, write] = x.gradient_slot();
        linear::backward_input(dy, stack.value, dx, write);
      }
      if (stack.gradient.defined()) linear::backward_weight(dy, x.value(), stack.gradient, {});
    });
  }
  return columns.parts;
}

Variable add_linear(Tape& tape, const Variable& residual, const Variable& x, const Variable& weight,
                    const Variable& bias, Residual fate) {
  const Variable y = sum_target(tape, residual, fate);
  tape.tell_of_product(x.value(), {&weight.value(), 1});
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

Variable dropout(Tape& tape, const dropout::Mask& mask, const Variable& x,
                 const dropout::Rows& rows) {
  const profile::Scope scope("dropout");
  const Variable y = tape.intermediate(x.value().shape(), x.value().dtype());
  dropout::forward(mask, x.value(), y.value(), rows);
  if (tape.recording()) {
    tape.record([=] {
      const profile::Scope back("dropout, backward");
      dropout::backward(mask, y.gradient(), x.gradient(), rows);
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

namespace {

// Whether values that can be found again are given back.
bool gives_back(const Tape& tape, const Variable& x) {
  return tape.recording() && x.value().device().is_cuda();
}

// y = residual + f W^T + b, where f goes to memory that is then given back.
Variable add_given_back(Tape& tape, const Onto& onto, Shape shape,
                        const std::function<void(const Tensor&)>& f) {
  const Variable y = sum_target(tape, onto.residual, onto.fate);
  const ArenaScope scope(tape.arena());
  const Tensor value = tape.arena().uninitialized(shape, y.value().dtype());
  f(value);
  linear::forward_onto(onto.residual.value(), value, onto.weight.value(), value_of(onto.bias),
                       y.value());
  return y;
}

// Its backward pass: pull_back(d) is given the gradient of f, in memory where it leaves f.
void pull_back_given_back(const Tape& tape, const Onto& onto, const Variable& y, Shape shape,
                          const std::function<void(const Tensor&)>& pull_back) {
  const Tensor dy = y.gradient();
  const Tensor value = tape.arena().uninitialized(shape, dy.dtype());
  linear::backward_input(dy, onto.weight.value(), value, Write::overwrite);
  pull_back(value);
  if (onto.weight.needs_gradient()) {
    linear::backward_weight(dy, value, onto.weight.gradient(), gradient_of(onto.bias));
  }
  pull_back_residual(y, onto.residual);
}

metala_attention::Inputs values_of(const AttentionInputs& in, const Carried& state) {
  return {value_of(in.q), value_of(in.u),   value_of(in.k),           value_of(in.v),
          value_of(in.z), value_of(in.aug), value_of(in.fixed_decay), value_of(state.before)};
}

// What the forward pass leaves to the backward pass.
Tensor states_to_keep(const Tape& tape, const metala_attention::Options& options,
                      const metala_attention::Inputs& in, Offsets offsets) {
  if (!tape.recording()) return {};
  const Shape shape = metala_attention::states_shape(options, in, offsets);
  return shape.count() == 0 ? Tensor() : tape.arena().uninitialized(shape, DType::bf16);
}

metala_attention::Gradients gradients_of(const AttentionInputs& in, const Carried& state) {
  const auto [d, write] = slots_of({in.q, in.u, in.k, in.v, in.z});
  return {d[0],
          d[1],
          d[2],
          d[3],
          d[4],
          gradient_of(in.aug),
          gradient_of(in.fixed_decay),
          gradient_of(state.before),
          write};
}

}  // namespace

Variable metala_attention(Tape& tape, const metala_attention::Options& options,
                          const AttentionInputs& in, Offsets offsets, const Carried& state) {
  const profile::Scope scope("attention");
  const Tensor& v = in.v.value();
  const Variable o = tape.intermediate(v.shape(), v.dtype());
  const Tensor mixed =
      tape.recording() ? tape.arena().uninitialized(v.shape(), v.dtype()) : Tensor();
  const metala_attention::Inputs inputs = values_of(in, state);
  const Tensor states = states_to_keep(tape, options, inputs, offsets);
  metala_attention::forward(options, inputs, offsets, o.value(), mixed, value_of(state.after),
                            states);
  if (tape.recording()) {
    tape.record([=] {
      const profile::Scope back("attention, backward");
      metala_attention::backward(options, inputs, offsets, mixed, o.gradient(),
                                 gradient_of(state.after), gradients_of(in, state), states);
    });
  }
  return o;
}

Variable add_glu_linear(Tape& tape, const Onto& onto, glu::Activation activation, const Variable& a,
                        const Variable& b) {
  if (!gives_back(tape, a)) {
    return add_linear(tape, onto.residual, glu(tape, activation, a, b), onto.weight, onto.bias,
                      onto.fate);
  }
  const Shape shape = a.value().shape();
  const Variable y = add_given_back(tape, onto, shape, [&](const Tensor& h) {
    const profile::Scope scope("glu");
    glu::forward(activation, a.value(), value_of(b), h);
  });
  tape.record([=, &tape] {
    pull_back_given_back(tape, onto, y, shape, [&](const Tensor& h) {
      const profile::Scope back("glu, backward");
      const auto [d, write] = slots_of({a, b});
      glu::backward(activation, a.value(), value_of(b), h, d[0], d[1], write, h);
    });
  });
  return y;
}

Variable add_attention_linear(Tape& tape, const Onto& onto,
                              const metala_attention::Options& options, const AttentionInputs& in,
                              Offsets offsets, const Carried& state) {
  if (!gives_back(tape, in.v)) {
    return add_linear(tape, onto.residual, metala_attention(tape, options, in, offsets, state),
                      onto.weight, onto.bias, onto.fate);
  }
  const Shape shape = in.v.value().shape();
  const Tensor mixed = tape.arena().uninitialized(shape, in.v.value().dtype());
  const metala_attention::Inputs inputs = values_of(in, state);
  const Tensor states = states_to_keep(tape, options, inputs, offsets);
  const Variable y = add_given_back(tape, onto, shape, [&](const Tensor& o) {
    const profile::Scope scope("attention");
    metala_attention::forward(options, inputs, offsets, o, mixed, value_of(state.after), states);
  });
  tape.record([=, &tape] {
    pull_back_given_back(tape, onto, y, shape, [&](const Tensor& o) {
      const profile::Scope back("attention, backward");
      metala_attention::Gradients to = gradients_of(in, state);
      to.o = o;
      metala_attention::backward(options, inputs, offsets, mixed, o, gradient_of(state.after), to,
                                 states);
    });
  });
  return y;
}

std::vector<Variable> short_conv_linear(Tape& tape, const Variable& x, const Variable& taps,
                                        Offsets offsets, const Carried& state,
                                        const std::vector<Projection>& projections) {
  const Stack stack = stack_of(tape, projections);
  const bool updates_state = value_of(state.after).defined();
  if (!gives_back(tape, x) || !stack.gradient.defined() || updates_state) {
    return linear(tape, short_conv(tape, x, taps, offsets, state), projections);
  }
  const Tensor& in = x.value();
  const auto convolve = [=](const Tensor& to) {
    const profile::Scope scope("short conv");
    short_conv::forward(x.value(), taps.value(), offsets, value_of(state.before), to, {});
  };
  const Tensor y = tape.arena().uninitialized({in.size(0), stack.value.size(0)}, in.dtype());
  {
    const ArenaScope scope(tape.arena());
    const Tensor filtered = tape.arena().uninitialized(in.shape(), in.dtype());
    convolve(filtered);
    linear::forward(filtered, stack.value, {}, y);
  }
  const Columns columns(tape, y, projections);
  tape.record([=, &tape] {
    const Tensor dy = columns.gradient();
    const Tensor filtered = tape.arena().uninitialized(x.value().shape(), x.value().dtype());
    convolve(filtered);
    linear::backward_weight(dy, filtered, stack.gradient, {});
    linear::backward_input(dy, stack.value, filtered, Write::overwrite);
    const profile::Scope back("short conv, backward");
    const auto [dx, write] = x.gradient_slot();
    short_conv::backward(filtered, x.value(), taps.value(), offsets, value_of(state.before), {}, dx,
                         taps.gradient(), gradient_of(state.before), write);
  });
  return columns.parts;
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
  struct Scope {
    Arena::Mark mark;
    Tensor gradient;  // of the result
  };
  const auto scope = std::make_shared<Scope>();
  tape.record([=, &arena = tape.arena()] {  // played last
    require(!x.needs_gradient() || x.gradient().raw() == scope->gradient.raw(),
            "autograd: a scoped function must end by adding onto its input");
    arena.rewind(scope->mark);
  });
  const Variable y = f(tape, x);
  tape.record([=, &arena = tape.arena()] {  // played first
    scope->gradient = y.gradient();         // outlives the scope, and becomes the gradient of x
    scope->mark = arena.mark();
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
