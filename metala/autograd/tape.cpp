#include "metala/autograd/tape.h"

namespace metala {

Variable Variable::constant(Tensor value) {
  Variable v;
  v.node_ = std::make_shared<Node>();
  v.node_->value = std::move(value);
  return v;
}

Variable Variable::leaf(Tensor value, Tensor gradient) {
  const bool fits =
      gradient.defined() && gradient.shape() == value.shape() &&
      (gradient.dtype() == value.dtype() || gradient.dtype() == accumulation_type(value.dtype()));
  require(fits,
          "autograd: the gradient of a leaf {} {} must have its shape, and its type or the type "
          "that its sums have",
          name_of(value.dtype()), value.shape());
  Variable v = constant(std::move(value));
  v.node_->gradient = std::move(gradient);
  v.node_->needs_gradient = true;
  v.node_->blank = false;
  return v;
}

void Variable::reserve_gradient() const {
  if (!node_->needs_gradient || node_->gradient.defined()) return;
  node_->gradient = node_->gradient_memory();
}

GradientSlot Variable::gradient_slot() const {
  if (!node_->needs_gradient) return {};
  reserve_gradient();
  const Write write = node_->blank ? Write::overwrite : Write::accumulate;
  node_->blank = false;
  return {node_->gradient, write};
}

Tensor Variable::gradient() const {
  const GradientSlot slot = gradient_slot();
  prepare(slot.tensor, slot.write);
  return slot.tensor;
}

void Variable::take_gradient(const Tensor& from,
                             const std::function<void(const Tensor&, const Tensor&)>& add) const {
  if (!node_->needs_gradient) return;
  if (!node_->blank) return add(from, node_->gradient);
  node_->gradient = from;
  node_->blank = false;
}

Variable Tape::intermediate(Shape shape, DType type) const {
  return intermediate(arena_.uninitialized(shape, type));
}

Variable Tape::intermediate(Tensor value) const {
  const auto memory = [&arena = arena_, shape = value.shape(), type = value.dtype()] {
    return arena.uninitialized(shape, type);
  };
  return intermediate(std::move(value), memory);
}

Variable Tape::intermediate(Tensor value, std::function<Tensor()> gradient_memory) const {
  Variable v = Variable::constant(std::move(value));
  v.node_->gradient_memory = std::move(gradient_memory);
  v.node_->needs_gradient = recording();
  return v;
}

void Tape::backward() {
  require(recording(), "autograd: backward on a tape that only computes");
  while (!records_.empty()) {
    const auto pull_back = std::move(records_.back());
    records_.pop_back();
    pull_back();
  }
}

}  // namespace metala
