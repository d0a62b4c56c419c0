#include "metala/ops/short_conv/short_conv.h"

#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gradient_check.h"
#include "metala/harness/random_tensor.h"
#include "metala/harness/refusal.h"

namespace metala {
namespace {

using namespace harness;

// Sequences longer and shorter than the widest kernel, one of them empty.
const std::vector<std::int64_t> ragged = {0, 1, 1, 4, 37, 39};

struct Inputs {
  Tensor x, weight, before, dy, dafter;
  std::int64_t batch, channels, width;

  Inputs(std::int64_t d, std::int64_t w, DType type = DType::f32)
      : batch(batch_of(ragged)), channels(d), width(w) {
    x = random_normal({ragged.back(), d}, type, 1);
    weight = random_normal({d, w}, type, 2);
    before = random_normal({batch, d, w}, type, 3);
    dy = random_normal({ragged.back(), d}, type, 4);
    dafter = random_normal({batch, d, w}, type, 5);
  }
  Tensor like_x() const { return poisoned(x.shape(), x.dtype()); }
  Tensor like_state() const { return poisoned(before.shape(), x.dtype()); }
};

TEST(ShortConv, FastFormAgreesWithTheReferenceForEveryWidth) {
  for (const std::int64_t channels : {1, 5, 16, 17, 70}) {
    for (const std::int64_t width : {1, 2, 4, 16}) {
      for (const bool carried : {false, true}) {
        const Inputs in(channels, width);
        const Tensor before = carried ? in.before : Tensor();
        const Tensor y = strided(in.like_x());
        const Tensor after = in.like_state();
        short_conv::forward(strided(in.x), in.weight, ragged, before, y, after);
        const Tensor want = in.x.cast(DType::f64);
        const Tensor want_after = in.before.cast(DType::f64);
        const Tensor before64 = carried ? in.before.cast(DType::f64) : Tensor();
        short_conv::forward(in.x.cast(DType::f64), in.weight.cast(DType::f64), ragged, before64,
                            want, want_after);
        EXPECT_TRUE(close(y, want, 2e-6)) << channels << " channels, width " << width;
        EXPECT_TRUE(close(after, want_after, 0)) << channels << " channels, width " << width;
      }
    }
  }
}

TEST(ShortConv, ATokenForEachOfSeveralSequencesAgreesWithTheReference) {
  const std::vector<std::int64_t> each = {0, 1, 2, 3};
  for (const std::int64_t channels : {1, 70, 300, 1024}) {
    for (const std::int64_t width : {1, 4, 16}) {
      const Inputs in(channels, width);
      const Tensor x = strided(in.x.rows(0, 3));
      const Tensor state = in.before.rows(0, 3).cast(DType::f32);
      const Tensor y = strided(poisoned({3, channels}, DType::f32));
      const Tensor want = poisoned({3, channels}, DType::f64);
      const Tensor want_state = in.before.rows(0, 3).cast(DType::f64);
      short_conv::forward(x, in.weight, each, state, y, state);
      short_conv::forward(x.cast(DType::f64), in.weight.cast(DType::f64), each, want_state, want,
                          want_state);
      EXPECT_TRUE(close(y, want, 2e-6)) << channels << " channels, width " << width;
      EXPECT_TRUE(close(state, want_state, 0)) << channels << " channels, width " << width;
    }
  }
}

TEST(ShortConv, GradientsOfTheFastFormAgreeWithTheReference) {
  for (const std::int64_t channels : {1, 17, 70}) {
    for (const std::int64_t width : {1, 4, 16}) {
      const Inputs in(channels, width);
      const Tensor dx = strided(Tensor::zeros(in.x.shape()));
      const Tensor dw = Tensor::zeros(in.weight.shape());
      const Tensor db = Tensor::zeros(in.before.shape());
      short_conv::backward(in.dy, in.x, in.weight, ragged, in.before, in.dafter, dx, dw, db);
      const auto f64 = [](const Tensor& t) { return t.cast(DType::f64); };
      const Tensor want_dx = Tensor::zeros(in.x.shape(), DType::f64);
      const Tensor want_dw = Tensor::zeros(in.weight.shape(), DType::f64);
      const Tensor want_db = Tensor::zeros(in.before.shape(), DType::f64);
      short_conv::backward(f64(in.dy), f64(in.x), f64(in.weight), ragged, f64(in.before),
                           f64(in.dafter), want_dx, want_dw, want_db);
      EXPECT_TRUE(close(dx, want_dx, 3e-6));
      EXPECT_TRUE(close(dw, want_dw, 3e-6));
      EXPECT_TRUE(close(db, want_db, 3e-6));
    }
  }
}

TEST(ShortConv, GradientsMatchCentralDifferencesStatesIncluded) {
  const Inputs in(3, 4, DType::f64);
  const auto loss = [&] {
    const Tensor y = in.like_x();
    const Tensor after = in.like_state();
    short_conv::forward(in.x, in.weight, ragged, in.before, y, after);
    return dot(y, in.dy) + dot(after, in.dafter);
  };
  const Tensor dx = Tensor::zeros(in.x.shape(), DType::f64);
  const Tensor dw = Tensor::zeros(in.weight.shape(), DType::f64);
  const Tensor db = Tensor::zeros(in.before.shape(), DType::f64);
  short_conv::backward(in.dy, in.x, in.weight, ragged, in.before, in.dafter, dx, dw, db);
  EXPECT_TRUE(gradient_matches(loss, in.x, dx, 1e-8));
  EXPECT_TRUE(gradient_matches(loss, in.weight, dw, 1e-8));
  EXPECT_TRUE(gradient_matches(loss, in.before, db, 1e-8));
}

TEST(ShortConv, SplittingASequenceAnywhereAndCarryingTheStateChangesNoBit) {
  const Inputs in(19, 4);
  const std::vector<std::int64_t> whole = {0, 39};
  const Tensor y = in.like_x();
  const Tensor after = poisoned({1, 19, 4}, DType::f32);
  short_conv::forward(in.x, in.weight, whole, {}, y, after);
  for (std::int64_t cut = 0; cut <= 39; ++cut) {
    const Tensor parts = in.like_x();
    const Tensor state = poisoned({1, 19, 4}, DType::f32);
    const std::vector<std::int64_t> left = {0, cut};
    const std::vector<std::int64_t> right = {0, 39 - cut};
    short_conv::forward(in.x.rows(0, cut), in.weight, left, {}, parts.rows(0, cut), state);
    // In place: after is before.
    short_conv::forward(in.x.rows(cut, 39), in.weight, right, state, parts.rows(cut, 39), state);
    EXPECT_TRUE(same_bits(parts, y)) << "cut at " << cut;
    EXPECT_TRUE(same_bits(state, after)) << "cut at " << cut;
  }
}

TEST(ShortConv, RefusesAKernelOfTheWrongWidthByName) {
  EXPECT_EQ(harness::refusal_of([&] {
              const std::vector<std::int64_t> offsets = {0, 2};
              short_conv::forward(Tensor::zeros({2, 3}), Tensor::zeros({3, 17}), offsets, {},
                                  Tensor::zeros({2, 3}), {});
            }),
            "short_conv: weight is [3, 17]; wanted [3, W] with W from 1 to 16");
}

}  // namespace
}  // namespace metala
