// Tests that need a GPU: skipped, and said to be, where there is none.
#pragma once

#include <gtest/gtest.h>

#include "metala/base/ragged.h"
#include "metala/base/tensor.h"
#include "metala/device/open_device.h"

namespace metala::harness {

class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_built) GTEST_SKIP() << "built without CUDA";
    try {
      gpu_ = open_device("cuda");
    } catch (const Error& e) {
      GTEST_SKIP() << "no GPU: " << e.what();
    }
  }

  Tensor there(const Tensor& t) const { return t.defined() ? t.to(gpu_) : t; }
  // Rounded to the type, on the GPU.
  Tensor there(const Tensor& t, DType type) const {
    return t.defined() ? t.cast(type).to(gpu_) : t;
  }
  // Offsets or ids with a copy on the GPU that lives as long as the test.
  template <class T>
  Mirrored<T> mirrored(const std::vector<T>& numbers) {
    const Shape shape = {static_cast<std::int64_t>(numbers.size())};
    const Tensor copy =
        Tensor::wrap(const_cast<T*>(numbers.data()), shape).to(gpu_);  // read, not written
    kept_.push_back(copy);
    return Mirrored<T>(std::span<const T>(numbers), copy.template data<T>());
  }

  Device gpu_;

 private:
  std::vector<Tensor> kept_;
};

}  // namespace metala::harness
