#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/dropout/dropout.h"

namespace metala {
namespace {

using namespace harness;

class DropoutOnGpu : public GpuTest {};

TEST_F(DropoutOnGpu, DropsWhatTheCpuDrops) {
  const dropout::Mask mask = {0.3, 7, 11};
  for (const std::int64_t width : {1, 4, 33, 1000}) {
    const Tensor x = random_normal({9, width}, DType::f32, 1);
    const Tensor y = Tensor::zeros(x.shape(), DType::f32, gpu_);
    const Tensor dx = there(x).copy();
    dropout::forward(mask, there(x), y);
    dropout::backward(mask, there(x), dx);
    const Tensor want = Tensor::zeros(x.shape());
    const Tensor dwant = x.copy();
    dropout::forward(mask, x, want);
    dropout::backward(mask, x, dwant);
    EXPECT_TRUE(close(y.to({}), want, 1e-7)) << width;
    EXPECT_TRUE(close(dx.to({}), dwant, 1e-7)) << width;
  }
}

TEST_F(DropoutOnGpu, DropsOfPartsWhatTheCpuDrops) {
  const dropout::Mask mask = {0.3, 7, 11};
  const std::vector<std::int64_t> offsets = {0, 2, 2, 8, 9}, origins = {100, 3, 7, 1000};
  const Tensor x = random_normal({9, 33}, DType::f32, 1);
  const Tensor y = Tensor::zeros(x.shape(), DType::f32, gpu_), want = Tensor::zeros(x.shape());
  dropout::forward(mask, x, want, {offsets, origins});
  const Tensor o = there(Tensor::wrap(const_cast<std::int64_t*>(offsets.data()), {5}));
  const Tensor p = there(Tensor::wrap(const_cast<std::int64_t*>(origins.data()), {4}));
  dropout::forward(mask, there(x), y,
                   {Offsets(offsets, o.data<std::int64_t>()), {origins, p.data<std::int64_t>()}});
  EXPECT_TRUE(close(y.to({}), want, 1e-7));
}

}  // namespace
}  // namespace metala
