// Columns of a matrix are copied and zeroed by themselves, on either device.
#include <gtest/gtest.h>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/harness/random_tensor.h"

namespace metala {
namespace {

using harness::same_bits;

// Of rows of 40 numbers: columns whose bytes begin and end on 16 bytes, and others.
constexpr std::pair<std::int64_t, std::int64_t> column_ranges[] = {{8, 32}, {1, 40}, {3, 4}};

template <class Use>
void for_each_columns(Device device, Use use) {
  for (const DType type : {DType::f32, DType::bf16}) {
    for (const auto& [begin, end] : column_ranges) {
      SCOPED_TRACE(testing::Message() << name_of(type) << ", columns " << begin << " to " << end);
      const Tensor all = harness::random_normal({70, 40}, DType::f32, 1).cast(type).to(device);
      use(all, begin, end);
    }
  }
}

// What all would be if its columns from `begin` on were `columns`, by the element.
Tensor replaced(const Tensor& all, std::int64_t begin, const Tensor& columns) {
  const Tensor wanted = all.cast(DType::f32);
  const Tensor from = columns.cast(DType::f32);
  for (std::int64_t i = 0; i < from.size(0); ++i) {
    for (std::int64_t j = 0; j < from.size(1); ++j) {
      wanted.row(i).data<float>()[begin + j] = from.row(i).data<float>()[j];
    }
  }
  return wanted.cast(all.dtype());
}

void expect_zeroing_of_columns_alone(Device device) {
  for_each_columns(device, [](const Tensor& all, std::int64_t begin, std::int64_t end) {
    const Tensor before = all.to({}).copy();
    all.slice(1, begin, end).fill_zero();
    const Tensor zeros = Tensor::zeros({all.size(0), end - begin}, all.dtype());
    EXPECT_TRUE(same_bits(all.to({}), replaced(before, begin, zeros)));
  });
}

void expect_copying_of_columns_alone(Device device) {
  for_each_columns(device, [device](const Tensor& all, std::int64_t begin, std::int64_t end) {
    const Tensor blank = Tensor::zeros({all.size(0), 48}, all.dtype());
    const Tensor to = blank.copy().to(device);
    to.slice(1, 8, 8 + end - begin).copy_from(all.slice(1, begin, end));
    EXPECT_TRUE(same_bits(to.to({}), replaced(blank, 8, all.to({}).slice(1, begin, end))));
  });
}

TEST(TensorColumns, AreZeroedAlone) {
  expect_zeroing_of_columns_alone({});
}

TEST(TensorColumns, AreCopiedAlone) {
  expect_copying_of_columns_alone({});
}

class TensorColumnsOnGpu : public harness::GpuTest {};

TEST_F(TensorColumnsOnGpu, AreZeroedAlone) {
  expect_zeroing_of_columns_alone(gpu_);
}

TEST_F(TensorColumnsOnGpu, AreCopiedAlone) {
  expect_copying_of_columns_alone(gpu_);
}

}  // namespace
}  // namespace metala
