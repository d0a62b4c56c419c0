#include <gtest/gtest.h>

#include <cmath>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/adamw/adamw.h"

namespace metala {
namespace {

using namespace harness;

class AdamWOnGpu : public GpuTest {};

// More tensors than one launch takes, with lengths around the seams of vectors and parts.
TEST_F(AdamWOnGpu, UpdatesAsTheCpuDoes) {
  std::vector<adamw::Slot> here, there_slots;
  std::vector<Tensor> gradients, gradients_there;
  for (std::int64_t i = 0; i < 60; ++i) {
    const Shape shape = {i % 3 == 0 ? 16384 + i : 1 + i * 37};
    const auto seed = static_cast<std::uint64_t>(4 * i);
    const adamw::Slot s = {fmt::format("p{}", i),
                           random_normal(shape, DType::f32, seed),
                           random_normal(shape, DType::f32, seed + 1),
                           random_normal(shape, DType::f32, seed + 2, 0.1),
                           filled(shape, DType::f32, 0.25),
                           i % 2 == 0};
    there_slots.push_back({s.name, there(s.parameter), there(s.gradient), there(s.first_moment),
                           there(s.second_moment), s.decays,
                           i % 4 == 0   ? there(s.parameter, DType::bf16)
                           : i % 4 == 2 ? there(s.parameter, DType::f16)
                                        : Tensor()});
    here.push_back(s);
    gradients.push_back(s.gradient);
    gradients_there.push_back(there_slots.back().gradient);
  }
  const Tensor norm = Tensor::zeros({1}, DType::f64, gpu_);
  const Tensor norm_here = Tensor::zeros({1}, DType::f64);
  adamw::global_norm(gradients_there, norm);
  adamw::global_norm(gradients, norm_here);
  EXPECT_NEAR(norm.to({}).data<double>()[0], norm_here.data<double>()[0], 1e-9);
  // The same in halves.
  const Tensor sum = Tensor::zeros({1}, DType::f64, gpu_);
  adamw::sum_of_squares(gradients_there, sum);
  const double squares = sum.to({}).data<double>()[0];
  adamw::square_root(sum);
  EXPECT_TRUE(same_bits(sum.to({}), norm.to({})));
  EXPECT_NEAR(std::sqrt(squares), norm_here.data<double>()[0], 1e-9);
  for (std::int64_t step = 1; step <= 3; ++step) {
    const adamw::Options options = {1e-2, 0.9, 0.95, 1e-8, 0.1, 1, step};
    adamw::update(options, there_slots, norm);
    adamw::update(options, here, norm_here);
  }
  for (std::size_t i = 0; i < here.size(); ++i) {
    const adamw::Slot& got = there_slots[i];
    EXPECT_TRUE(close(got.parameter.to({}), here[i].parameter, 1e-6)) << i;
    EXPECT_TRUE(close(got.first_moment.to({}), here[i].first_moment, 1e-6)) << i;
    EXPECT_TRUE(close(got.second_moment.to({}), here[i].second_moment, 1e-6)) << i;
    if (!got.working.defined()) continue;
    EXPECT_TRUE(same_bits(got.working.to({}), got.parameter.to({}).cast(got.working.dtype()))) << i;
  }
}

TEST_F(AdamWOnGpu, NothingChangesWhenAGradientIsNotFinite) {
  const Tensor gradient = random_normal({20000}, DType::f32, 1);
  gradient.data<float>()[17000] = std::numeric_limits<float>::infinity();
  const Tensor ones = filled({20000}, DType::f32, 1);
  const adamw::Slot s = {"p", there(ones), there(gradient), there(ones), there(ones), true};
  const Tensor norm = Tensor::zeros({1}, DType::f64, gpu_);
  adamw::global_norm({&s.gradient, 1}, norm);
  adamw::update({}, {&s, 1}, norm);
  EXPECT_FALSE(std::isfinite(norm.to({}).data<double>()[0]));
  EXPECT_TRUE(same_bits(s.parameter.to({}), ones));
}

TEST_F(AdamWOnGpu, AValueThatIsNotFiniteMakesTheNormNaN) {
  for (const double value : {0.0, -1e300, HUGE_VAL, -HUGE_VAL, std::nan("")}) {
    const Tensor norm = there(filled({1}, DType::f64, 3));
    adamw::join_finiteness(there(filled({1}, DType::f64, value)), norm);
    const double got = norm.to({}).data<double>()[0];
    EXPECT_TRUE(std::isfinite(value) ? got == 3 : std::isnan(got)) << value;
  }
}

}  // namespace
}  // namespace metala
