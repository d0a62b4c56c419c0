// Reverse-mode differentiation over ops: a Tape records, for each function called with it, how to
// pull gradients back; `backward` plays the records in reverse.
//
// A tape either records (training) or only computes (inference). The functions of functions.h are
// written once for both. Values and gradients of intermediate variables come from the tape's arena
// and are dead once the arena is reset.
//
// The gradient of a variable is the sum over its uses. It is blank, its memory uninitialised, until
// the first use writes it or somebody asks for it as zeros.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "metala/base/tensor.h"
#include "metala/base/write.h"
#include "metala/device/arena.h"

namespace metala {

// Where a function puts its share of a gradient.
struct GradientSlot {
  Tensor tensor;  // undefined: not wanted
  Write write = Write::accumulate;
};

// A value with, when it is needed, a gradient. Copies share both. Default: absent.
class Variable {
 public:
  Variable() = default;

  // A value nobody differentiates.
  static Variable constant(Tensor value);
  // A leaf, such as a parameter: gradients are added to `gradient`, which the caller owns, of the
  // value's type or wider (accumulation_type).
  static Variable leaf(Tensor value, Tensor gradient);

  bool defined() const { return node_ != nullptr; }
  const Tensor& value() const { return node_->value; }
  bool needs_gradient() const { return defined() && node_->needs_gradient; }
  // Zeros if blank. Undefined for a variable that needs none.
  Tensor gradient() const;
  // The gradient to be written if blank, else to be added to. It then counts as written.
  GradientSlot gradient_slot() const;
  // Memory for the gradient from now on.
  void reserve_gradient() const;
  // Adds a gradient that nobody else reads or writes any more: a blank one becomes that very
  // tensor. `add` adds the first tensor to the second.
  void take_gradient(const Tensor& from,
                     const std::function<void(const Tensor&, const Tensor&)>& add) const;

 private:
  friend class Tape;
  struct Node {
    Tensor value;
    Tensor gradient;
    std::function<Tensor()> gradient_memory;  // where the gradient comes from; leaves have one
    bool needs_gradient = false;
    bool blank = true;  // nothing is in the gradient yet
  };
  std::shared_ptr<Node> node_;
};

// The tensor of an optional variable: undefined for an absent one.
inline Tensor value_of(const Variable& v) {
  return v.defined() ? v.value() : Tensor();
}
inline Tensor gradient_of(const Variable& v) {
  return v.defined() ? v.gradient() : Tensor();
}

class Tape {
 public:
  enum class Mode { compute, record };
  Tape(Arena& arena, Mode mode) : arena_(arena), mode_(mode) {}

  bool recording() const { return mode_ == Mode::record; }
  Arena& arena() const { return arena_; }

  // An uninitialised intermediate value; it needs a gradient when the tape records.
  Variable intermediate(Shape, DType) const;
  Variable intermediate(Tensor value) const;
  // One whose gradient is to lie somewhere in particular: the memory is asked for when it is first
  // needed.
  Variable intermediate(Tensor value, std::function<Tensor()> gradient_memory) const;

  // Told of every product of rows x [N, in] with matrices [out, in], before it is made: for those
  // who want to know what a model's matrices meet. Not heard on a GPU, where products are fused.
  using ProductListener = std::function<void(const Tensor& x, std::span<const Tensor> matrices)>;
  void listen(ProductListener listener) { listener_ = std::move(listener); }
  void tell_of_product(const Tensor& x, std::span<const Tensor> matrices) const {
    if (listener_) listener_(x, matrices);
  }

  void record(std::function<void()> pull_back) { records_.push_back(std::move(pull_back)); }

  // Plays the records from last to first and forgets them. Gradients of the results must have been
  // set (Variable::gradient) before.
  void backward();

 private:
  Arena& arena_;
  Mode mode_;
  std::vector<std::function<void()>> records_;
  ProductListener listener_;
};

}  // namespace metala
