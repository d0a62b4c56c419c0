#include "metala/ops/glu/glu.h"

#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gradient_check.h"
#include "metala/harness/random_tensor.h"
#include "metala/harness/refusal.h"

namespace metala {
namespace {

using namespace harness;
using glu::Activation;

const char* const names[] = {"silu", "gelu",  "relu",  "elu",  "sigmoid",
                             "leak", "1+elu", "2+elu", "sine", "exp"};

TEST(Glu, EveryActivationAgreesWithTheReferenceWithAndWithoutAGate) {
  for (const char* name : names) {
    const Activation activation = glu::activation_named(name);
    for (const std::int64_t width : {1, 16, 37}) {
      for (const bool gated : {false, true}) {
        const Tensor a = strided(random_normal({9, width}, DType::f32, 1, 2.0));
        const Tensor b = gated ? strided(random_normal({9, width}, DType::f32, 2)) : Tensor();
        const Tensor dy = random_normal({9, width}, DType::f32, 3);
        const Tensor y = strided(poisoned({9, width}, DType::f32));
        const Tensor da = random_normal({9, width}, DType::f32, 4);
        const Tensor db = gated ? random_normal({9, width}, DType::f32, 5) : Tensor();
        const auto f64 = [](const Tensor& t) { return t.defined() ? t.cast(DType::f64) : t; };
        const Tensor want = f64(y), want_da = f64(da), want_db = f64(db);
        glu::forward(activation, a, b, y);
        glu::backward(activation, a, b, dy, da, db);
        glu::forward(activation, f64(a), f64(b), want);
        glu::backward(activation, f64(a), f64(b), f64(dy), want_da, want_db);
        EXPECT_TRUE(close(y, want, 2e-6)) << name << " " << width;
        EXPECT_TRUE(close(da, want_da, 2e-6)) << name << " " << width;
        if (gated) {
          EXPECT_TRUE(close(db, want_db, 2e-6)) << name << " " << width;
        }
      }
    }
  }
}

TEST(Glu, GradientsMatchCentralDifferences) {
  for (const char* name : names) {
    const Activation activation = glu::activation_named(name);
    const Tensor a = random_normal({3, 5}, DType::f64, 6);
    const Tensor b = random_normal({3, 5}, DType::f64, 7);
    const Tensor cotangent = random_normal({3, 5}, DType::f64, 8);
    const auto loss = [&] {
      const Tensor y = Tensor::uninitialized({3, 5}, DType::f64);
      glu::forward(activation, a, b, y);
      return dot(y, cotangent);
    };
    const Tensor da = Tensor::zeros({3, 5}, DType::f64);
    const Tensor db = Tensor::zeros({3, 5}, DType::f64);
    glu::backward(activation, a, b, cotangent, da, db);
    EXPECT_TRUE(gradient_matches(loss, b, db, 1e-8)) << name;
    // exp passes no gradient through its row maximum, so its row's largest entry differs.
    if (activation != Activation::exp) {
      EXPECT_TRUE(gradient_matches(loss, a, da, 1e-8)) << name;
    }
  }
}

TEST(Glu, BackwardFindsTheResultAgainInTheMemoryOfItsGradient) {
  for (const auto activation : {glu::Activation::silu, glu::Activation::gelu}) {
    for (const DType type : {DType::f32, DType::f64}) {
      const Shape shape = {3, 20};
      const Tensor a = random_normal(shape, type, 1), b = random_normal(shape, type, 2);
      const Tensor dy = random_normal(shape, type, 3);
      const Tensor y = Tensor::zeros(shape, type);
      const Tensor da = Tensor::zeros(shape, type), db = Tensor::zeros(shape, type);
      glu::forward(activation, a, b, y);
      glu::backward(activation, a, b, dy, da, db, Write::accumulate, dy);
      EXPECT_TRUE(same_bits(dy, y));
    }
  }
}

TEST(Glu, HugeInputsGiveFiniteValuesAndGradients) {
  const Tensor a = Tensor::zeros({1, 4});
  const float values[] = {1e4f, -1e4f, 0.0f, 88.8f};
  std::copy(std::begin(values), std::end(values), a.data<float>());
  for (const char* name : names) {
    const Activation activation = glu::activation_named(name);
    const Tensor y = poisoned({1, 4}, DType::f32);
    const Tensor da = Tensor::zeros({1, 4});
    glu::forward(activation, a, {}, y);
    glu::backward(activation, a, {}, filled({1, 4}, DType::f32, 1), da, {});
    for (int i = 0; i < 4; ++i) {
      EXPECT_TRUE(std::isfinite(y.data<float>()[i])) << name << " of " << values[i];
      EXPECT_TRUE(std::isfinite(da.data<float>()[i])) << name << " of " << values[i];
    }
  }
}

TEST(Glu, AnUnknownActivationIsRefusedWithTheListOfThoseKnown) {
  EXPECT_TRUE(harness::refuses([&] { glu::activation_named("swoosh"); },
                               "\"swoosh\" is not known; supported: silu"));
}

}  // namespace
}  // namespace metala
