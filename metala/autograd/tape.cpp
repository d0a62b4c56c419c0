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
          name_of(value.dtype()), value.shape().text());
  Variable v = constant(std::move(value));
  v.node_->gradient = std::move(gradient);
  v.node_->needs_gradient = true;
  return v;
}

Tensor Variable::gradient() const {
  if (!node_->needs_gradient) return {};
  if (!node_->gradient.defined()) {
    node_->gradient = node_->arena->zeros(node_->value.shape(), node_->value.dtype());
  }
  return node_->gradient;
}

Variable Tape::intermediate(Shape shape, DType type) const {
  return intermediate(arena_.uninitialized(shape, type));
}

Variable Tape::intermediate(Tensor value) const {
  Variable v = Variable::constant(std::move(value));
  v.node_->arena = &arena_;
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
