#include "metala/autograd/functions.h"

#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/linear/linear.h"

namespace metala {
namespace {

using namespace harness;

constexpr std::int64_t rows = 3;
constexpr std::int64_t width = 4;

class Functions : public testing::Test {
 protected:
  Variable intermediate(std::uint64_t seed) {
    const Variable x = tape_.intermediate({rows, width}, DType::f64);
    x.value().copy_from(random_normal({rows, width}, DType::f64, seed));
    return x;
  }
  // Gives y a random gradient, plays the tape and returns what was given.
  Tensor pull_back(const Variable& y) {
    const Tensor dy = random_normal({rows, width}, DType::f64, 99);
    y.gradient().copy_from(dy);
    tape_.backward();
    return dy;
  }

  Arena arena_;
  Tape tape_{arena_, Tape::Mode::record};
};

Tensor times(const Tensor& t, double factor) {
  const Tensor product = t.copy();
  for (std::int64_t i = 0; i < t.count(); ++i) product.data<double>()[i] *= factor;
  return product;
}

TEST_F(Functions, AVariableAddedToItselfHasTwiceTheGradient) {
  const Variable x = intermediate(1);
  const Tensor dy = pull_back(functions::add(tape_, x, x));
  EXPECT_TRUE(close(x.gradient(), times(dy, 2), 0));
}

TEST_F(Functions, AResidualUsedTwiceHasTheSumOfItsGradients) {
  const Variable x = intermediate(1), a = intermediate(2), b = intermediate(3);
  const Variable first = functions::add(tape_, x, a);
  const Variable second = functions::add(tape_, x, b);
  const Tensor dy = pull_back(functions::add(tape_, first, second));
  EXPECT_TRUE(close(x.gradient(), times(dy, 2), 0));
  EXPECT_TRUE(close(a.gradient(), dy, 0));
  EXPECT_TRUE(close(b.gradient(), dy, 0));
}

TEST_F(Functions, AResidualMayAlsoBeTheInput) {
  const Variable x = intermediate(1);
  const Tensor w = random_normal({width, width}, DType::f64, 2);
  const Tensor dw = Tensor::zeros({width, width}, DType::f64);
  const Variable y = functions::add_linear(tape_, x, x, Variable::leaf(w, dw), {});
  const Tensor dy = pull_back(y);
  const Tensor want = dy.copy();
  linear::backward_input(dy, w, want);
  EXPECT_TRUE(close(x.gradient(), want, 1e-15));
}

TEST_F(Functions, ASpentResidualBecomesTheSum) {
  const Variable x = intermediate(1), a = intermediate(2);
  const Tensor w = random_normal({width, width}, DType::f64, 3);
  const Tensor dw = Tensor::zeros({width, width}, DType::f64);
  const Tensor want = x.value().copy();
  linear::forward(a.value(), w, {}, want, Write::accumulate);
  const Variable y =
      functions::add_linear(tape_, x, a, Variable::leaf(w, dw), {}, functions::Residual::spent);
  EXPECT_EQ(y.value().raw(), x.value().raw());
  EXPECT_TRUE(close(y.value(), want, 1e-15));
  const Tensor dy = pull_back(y);
  EXPECT_TRUE(close(x.gradient(), dy, 0));
  const Tensor da = Tensor::zeros({rows, width}, DType::f64);
  linear::backward_input(dy, w, da);
  EXPECT_TRUE(close(a.gradient(), da, 1e-15));
}

TEST_F(Functions, WhatNothingReachesHasAGradientOfZero) {
  const Variable x = intermediate(1);
  x.reserve_gradient();
  EXPECT_TRUE(close(x.gradient(), Tensor::zeros({rows, width}, DType::f64), 0));
}

TEST_F(Functions, TheFirstShareIsWrittenAndTheOthersAdded) {
  const Variable x = intermediate(1);
  EXPECT_EQ(x.gradient_slot().write, Write::overwrite);
  EXPECT_EQ(x.gradient_slot().write, Write::accumulate);
}

TEST_F(Functions, OneOfTwoGradientsMayHoldSomethingAlready) {
  const Variable a = intermediate(1), b = intermediate(2);
  const Variable y = functions::glu(tape_, glu::Activation::silu, a, b);
  const Variable sum = functions::add(tape_, y, a);  // its record is played first
  const Tensor dy = pull_back(sum);
  const Tensor da = dy.copy();
  const Tensor db = Tensor::zeros({rows, width}, DType::f64);
  glu::backward(glu::Activation::silu, a.value(), b.value(), dy, da, db);
  EXPECT_TRUE(close(a.gradient(), da, 1e-15));
  EXPECT_TRUE(close(b.gradient(), db, 1e-15));
}

// Weights side by side and weights apart: the same results and gradients, whichever parts are used.
TEST_F(Functions, ProjectionsThatLieTogetherAreOneProduct) {
  const Tensor weights = random_normal({5, width}, DType::f64, 2);
  const Tensor bias = random_normal({3}, DType::f64, 3);
  const Tensor dy = random_normal({rows, 3}, DType::f64, 4);
  struct Gradients {
    Tensor x, weights, bias;
  };
  const auto run = [&](bool together) {
    const Variable x = intermediate(1);
    const Tensor dweights = filled({5, width}, DType::f64, 0.5);
    const Tensor dbias = filled({3}, DType::f64, 0.5);
    const auto weight = [&](std::int64_t begin, std::int64_t end) {
      const Tensor part = weights.rows(begin, end);
      return Variable::leaf(together ? part : part.copy(), dweights.rows(begin, end));
    };
    const auto y = functions::linear(
        tape_, x, {{weight(0, 2), {}}, {weight(2, 5), Variable::leaf(bias, dbias)}});
    EXPECT_EQ(y[1].value().stride(0), together ? 5 : 3);
    const Tensor want = Tensor::zeros({rows, 3}, DType::f64);
    linear::forward(x.value(), weights.rows(2, 5), bias, want);
    EXPECT_TRUE(close(y[1].value(), want, 1e-15));
    y[1].gradient().copy_from(dy);  // nothing reaches y[0]
    tape_.backward();
    return Gradients{x.gradient(), dweights, dbias};
  };
  const Gradients one = run(true);
  const Gradients each = run(false);
  EXPECT_TRUE(close(one.x, each.x, 1e-15));
  EXPECT_TRUE(close(one.weights, each.weights, 1e-15));
  EXPECT_TRUE(close(one.bias, each.bias, 1e-15));
}

// Blocks one after the other, each x + norm(x) W^T.
TEST_F(Functions, AScopeGivesBackWhatItsGradientsTook) {
  const Tensor w = random_normal({width, width}, DType::f64, 2);
  const auto block = [&](Tape& tape, const Variable& x) {
    return functions::add_linear(tape, x, functions::rms_norm(tape, x, 1e-6),
                                 Variable::constant(w));
  };
  const auto run = [&](std::int64_t blocks, bool scopes, Tensor& dx) {
    Arena arena;
    Tape tape(arena, Tape::Mode::record);
    const Variable x = tape.intermediate({rows, width}, DType::f64);
    x.value().copy_from(random_normal({rows, width}, DType::f64, 1));
    Variable y = x;
    for (std::int64_t i = 0; i < blocks; ++i) {
      y = scopes ? functions::scoped(tape, y, block) : block(tape, y);
    }
    y.gradient().copy_from(random_normal({rows, width}, DType::f64, 99));
    const std::size_t forward = arena.peak();
    tape.backward();
    dx = x.gradient().copy();
    return arena.peak() - forward;
  };
  Tensor scoped, plain, few;
  const std::size_t of_many = run(8, true, scoped);
  run(8, false, plain);
  EXPECT_TRUE(same_bits(scoped, plain));
  EXPECT_EQ(of_many, run(2, true, few));
}

TEST_F(Functions, AScopeMustEndByAddingOntoItsInput) {
  const Variable x = intermediate(1);
  const Tensor w = random_normal({width, width}, DType::f64, 2);
  const Variable y = functions::scoped(tape_, x, [&](Tape& tape, const Variable& in) {
    return functions::linear(tape, in, Variable::constant(w));
  });
  EXPECT_THROW(pull_back(y), Error);
}

}  // namespace
}  // namespace metala
