#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/glu/glu.h"

namespace metala {
namespace {

using namespace harness;

class GluOnGpu : public GpuTest {};

TEST_F(GluOnGpu, AgreesWithTheReferenceForEveryActivationForwardsAndBackwards) {
  for (const char* name :
       {"silu", "gelu", "relu", "elu", "sigmoid", "leak", "1+elu", "2+elu", "sine", "exp"}) {
    for (const auto& [type, bound] : {std::pair{DType::f32, 5e-6}, {DType::bf16, 1e-2}}) {
      for (const auto& [gated, width] :
           {std::pair{true, 300}, {true, 304}, {true, 4104}, {false, 304}}) {
        const auto activation = glu::activation_named(name);
        const Shape shape = {3, width};
        const Tensor a = random_normal(shape, DType::f32, 1, 3).cast(type);
        const Tensor b = gated ? random_normal(shape, DType::f32, 2).cast(type) : Tensor();
        const Tensor dy = random_normal(shape, DType::f32, 3).cast(type);
        const auto run = [&](auto prepared, const Tensor& y, const Tensor& da, const Tensor& db) {
          glu::forward(activation, prepared(a), prepared(b), y);
          glu::backward(activation, prepared(a), prepared(b), prepared(dy), da, db);
        };
        const auto zeros = [&](DType t, Device device) { return Tensor::zeros(shape, t, device); };
        const Tensor y = zeros(type, gpu_), da = zeros(type, gpu_);
        const Tensor db = gated ? zeros(type, gpu_) : Tensor();
        run([&](const Tensor& t) { return there(t); }, y, da, db);
        const Tensor y64 = zeros(DType::f64, {}), da64 = zeros(DType::f64, {});
        const Tensor db64 = gated ? zeros(DType::f64, {}) : Tensor();
        run([](const Tensor& t) { return t.defined() ? t.cast(DType::f64) : t; }, y64, da64, db64);
        EXPECT_TRUE(close(y.to({}), y64, bound)) << name;
        EXPECT_TRUE(close(da.to({}), da64, bound)) << name;
        if (gated) {
          EXPECT_TRUE(close(db.to({}), db64, bound)) << name;
        }
      }
    }
  }
}

TEST_F(GluOnGpu, OverwritingNeedsNoZeros) {
  for (const std::int64_t width : {300, 304}) {
    const Shape shape = {3, width};
    const auto random = [&](std::uint64_t seed) {
      return there(random_normal(shape, DType::f32, seed), DType::bf16);
    };
    const Tensor a = random(1), b = random(2), dy = random(3);
    const auto run = [&](const Tensor& da, const Tensor& db, Write write) {
      glu::backward(glu::Activation::silu, a, b, dy, da, db, write);
    };
    const Tensor da = there(poisoned(shape, DType::f32), DType::bf16),
                 db = there(poisoned(shape, DType::f32), DType::bf16);
    run(da, db, Write::overwrite);
    const Tensor sum_a = Tensor::zeros(shape, DType::bf16, gpu_);
    const Tensor sum_b = Tensor::zeros(shape, DType::bf16, gpu_);
    run(sum_a, sum_b, Write::accumulate);
    EXPECT_TRUE(same_bits(da.to({}), sum_a.to({})));
    EXPECT_TRUE(same_bits(db.to({}), sum_b.to({})));
  }
}

TEST_F(GluOnGpu, TheResultIsFoundAgainInTheMemoryOfItsGradient) {
  for (const std::int64_t width : {300, 304}) {
    for (const bool gated : {true, false}) {
      const Shape shape = {3, width};
      const auto random = [&](std::uint64_t seed) {
        return there(random_normal(shape, DType::f32, seed), DType::bf16);
      };
      const Tensor a = random(1), dy = random(3);
      const Tensor b = gated ? random(2) : Tensor();
      const auto zeros = [&] { return Tensor::zeros(shape, DType::bf16, gpu_); };
      const Tensor y = zeros(), da = zeros(), want = zeros();
      const Tensor db = gated ? zeros() : Tensor(), want_b = gated ? zeros() : Tensor();
      glu::forward(glu::Activation::silu, a, b, y);
      glu::backward(glu::Activation::silu, a, b, dy, want, want_b);
      glu::backward(glu::Activation::silu, a, b, dy, da, db, Write::accumulate, dy);
      EXPECT_TRUE(same_bits(dy.to({}), y.to({})));
      EXPECT_TRUE(same_bits(da.to({}), want.to({})));
      if (gated) {
        EXPECT_TRUE(same_bits(db.to({}), want_b.to({})));
      }
    }
  }
}

}  // namespace
}  // namespace metala
