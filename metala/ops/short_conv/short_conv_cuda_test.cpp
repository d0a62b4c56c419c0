#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/short_conv/short_conv.h"

namespace metala {
namespace {

using namespace harness;

class ShortConvOnGpu : public GpuTest {};

TEST_F(ShortConvOnGpu, AgreesWithTheReferenceForEveryWidthAndRaggedBatch) {
  const std::vector<std::int64_t> ragged = {0, 1, 1, 4, 37, 39, 171, 171};
  const auto batch = batch_of(ragged);
  for (const std::int64_t channels : {1, 17, 136}) {
    for (const std::int64_t width : {1, 2, 4, 16}) {
      for (const bool carried : {false, true}) {
        for (const auto& [type, bound] : {std::pair{DType::f32, 2e-6}, {DType::bf16, 1e-2}}) {
          const Tensor x = random_normal({171, channels}, DType::f32, 1).cast(type);
          const Tensor weight = random_normal({channels, width}, DType::f32, 2);
          const Tensor before =
              carried ? random_normal({batch, channels, width}, DType::f32, 3) : Tensor();
          const Tensor y = Tensor::zeros(x.shape(), type, gpu_);
          const Tensor after = Tensor::zeros({batch, channels, width}, DType::f32, gpu_);
          short_conv::forward(there(x), there(weight), mirrored(ragged), there(before), y, after);
          const Tensor y64 = Tensor::zeros(x.shape(), DType::f64);
          const Tensor after64 = Tensor::zeros(after.shape(), DType::f64);
          short_conv::forward(x.cast(DType::f64), weight.cast(DType::f64), ragged,
                              carried ? before.cast(DType::f64) : before, y64, after64);
          EXPECT_TRUE(close(y.to({}), y64, bound)) << channels << " channels, width " << width;
          EXPECT_TRUE(close(after.to({}), after64, 0)) << channels << " channels, width " << width;
        }
      }
    }
  }
}

TEST_F(ShortConvOnGpu, GradientsAgreeWithTheReferenceForEveryWidthAndRaggedBatch) {
  const std::vector<std::int64_t> ragged = {0, 1, 1, 4, 37, 39, 171, 171};
  const auto batch = batch_of(ragged);
  for (const std::int64_t channels : {1, 17, 136}) {
    for (const std::int64_t width : {1, 2, 4, 16}) {
      for (const bool carried : {false, true}) {
        for (const auto& [type, bound] : {std::pair{DType::f32, 4e-6}, {DType::bf16, 1e-2}}) {
          const Shape shape = {171, channels};
          const Shape states = {batch, channels, width};
          const Tensor x = random_normal(shape, DType::f32, 1).cast(type);
          const Tensor dy = random_normal(shape, DType::f32, 4).cast(type);
          const Tensor weight = random_normal({channels, width}, DType::f32, 2);
          const auto state = [&](std::uint64_t seed) {
            return carried ? random_normal(states, DType::f32, seed) : Tensor();
          };
          const auto exact = [](const Tensor& t) { return t.defined() ? t.cast(DType::f64) : t; };
          const Tensor before = state(3), dafter = state(5);
          const Tensor dx = there(filled(shape, DType::f32, 0.5), type);
          const Tensor dweight = there(filled({channels, width}, DType::f32, 0.5));
          const Tensor dbefore = there(filled(states, DType::f32, 0.5));
          short_conv::backward(there(dy), there(x), there(weight), mirrored(ragged), there(before),
                               there(dafter), dx, dweight, carried ? dbefore : Tensor());
          const Tensor dx64 = filled(shape, DType::f64, 0.5);
          const Tensor dweight64 = filled({channels, width}, DType::f64, 0.5);
          const Tensor dbefore64 = filled(states, DType::f64, 0.5);
          short_conv::backward(exact(dy), exact(x), exact(weight), ragged, exact(before),
                               exact(dafter), dx64, dweight64, carried ? dbefore64 : Tensor());
          EXPECT_TRUE(close(dx.to({}), dx64, bound)) << channels << " channels, width " << width;
          EXPECT_TRUE(close(dweight.to({}), dweight64, 1e-5))
              << channels << " channels, width " << width;
          EXPECT_TRUE(close(dbefore.to({}), dbefore64, 1e-5))
              << channels << " channels, width " << width;
        }
      }
    }
  }
}

// More than a warp looks at in one step, with runs longer than the shortest.
TEST_F(ShortConvOnGpu, ManySequencesAgreeWithTheReference) {
  std::vector<std::int64_t> offsets = {0};
  for (std::int64_t i = 0; i < 70; ++i) offsets.push_back(offsets.back() + i * 7 % 600);
  const Shape shape = {offsets.back(), 8};
  const Tensor x = random_normal(shape, DType::f32, 1).cast(DType::bf16);
  const Tensor dy = random_normal(shape, DType::f32, 2).cast(DType::bf16);
  const Tensor weight = random_normal({8, 4}, DType::f32, 3);
  const Tensor y = Tensor::zeros(shape, DType::bf16, gpu_);
  const Tensor dx = Tensor::zeros(shape, DType::bf16, gpu_);
  const Tensor dweight = Tensor::zeros({8, 4}, DType::f32, gpu_);
  short_conv::forward(there(x), there(weight), mirrored(offsets), {}, y, {});
  short_conv::backward(there(dy), there(x), there(weight), mirrored(offsets), {}, {}, dx, dweight,
                       {}, Write::overwrite);
  const auto exact = [](const Tensor& t) { return t.cast(DType::f64); };
  const Tensor y64 = Tensor::zeros(shape, DType::f64), dx64 = Tensor::zeros(shape, DType::f64);
  const Tensor dweight64 = Tensor::zeros({8, 4}, DType::f64);
  short_conv::forward(exact(x), exact(weight), offsets, {}, y64, {});
  short_conv::backward(exact(dy), exact(x), exact(weight), offsets, {}, {}, dx64, dweight64, {},
                       Write::overwrite);
  EXPECT_TRUE(close(y.to({}), y64, 1e-2));
  EXPECT_TRUE(close(dx.to({}), dx64, 1e-2));
  EXPECT_TRUE(close(dweight.to({}), dweight64, 1e-2));
}

TEST_F(ShortConvOnGpu, OverwritingNeedsNoZeros) {
  const std::vector<std::int64_t> ragged = {0, 1, 1, 70, 171};
  for (const std::int64_t channels : {17, 32}) {
    const Shape shape = {171, channels};
    const Tensor x = there(random_normal(shape, DType::f32, 1));
    const Tensor dy = there(random_normal(shape, DType::f32, 2));
    const Tensor weight = there(random_normal({channels, 4}, DType::f32, 3));
    const auto run = [&](const Tensor& dx, Write write) {
      const Tensor dweight = Tensor::zeros({channels, 4}, DType::f32, gpu_);
      short_conv::backward(dy, x, weight, mirrored(ragged), {}, {}, dx, dweight, {}, write);
    };
    const Tensor dx = there(poisoned(shape, DType::f32));
    run(dx, Write::overwrite);
    const Tensor sum = Tensor::zeros(shape, DType::f32, gpu_);
    run(sum, Write::accumulate);
    EXPECT_TRUE(same_bits(dx.to({}), sum.to({})));
  }
}

TEST_F(ShortConvOnGpu, AStateIsUpdatedInPlace) {
  const std::vector<std::int64_t> one_each = {0, 1, 2, 3};
  const Tensor x = random_normal({3, 50}, DType::f32, 1);
  const Tensor weight = random_normal({50, 4}, DType::f32, 2);
  const Tensor state = random_normal({3, 50, 4}, DType::f32, 3);
  const Tensor y = Tensor::zeros(x.shape(), DType::f32, gpu_);
  const Tensor carried = there(state).copy();
  short_conv::forward(there(x), there(weight), mirrored(one_each), carried, y, carried);
  const Tensor want = Tensor::zeros(x.shape());
  const Tensor after = Tensor::zeros(state.shape());
  short_conv::forward(x, weight, one_each, state, want, after);
  EXPECT_TRUE(close(y.to({}), want, 2e-6));
  EXPECT_TRUE(close(carried.to({}), after, 0));
}

}  // namespace
}  // namespace metala
