#include "metala/ops/dropout/dropout.h"

#include "metala/base/half.h"
#include "metala/base/random.h"
#include "metala/base/threads.h"
#include "metala/ops/dropout/dropout_cuda.h"

namespace metala::dropout {
namespace {

void check(const Mask& mask, const Tensor& from, const Tensor& to, const Rows& rows) {
  require(mask.probability >= 0 && mask.probability < 1,
          "dropout: probability {}; wanted 0 or more and less than 1", mask.probability);
  const bool fits = from.defined() && (from.dtype() == DType::f32 || from.dtype() == DType::f64 ||
                                       (is_half(from.dtype()) && from.device().is_cuda()));
  require(fits && from.rank() == 2, "dropout: x must be a matrix [N, d] of f32 or f64");
  check_tensor("dropout: x", from, from.shape(), from.dtype());
  check_tensor("dropout: y", to, from.shape(), from.dtype());
  if (rows.origins.empty()) return;
  check_offsets("dropout", rows.offsets, from.size(0));
  require(static_cast<std::int64_t>(rows.origins.size()) == batch_of(rows.offsets),
          "dropout: {} origins for {} sequences", rows.origins.size(), batch_of(rows.offsets));
}

// Calls f(row of x, row of the whole that it is, number of rows) for every run of neighbours.
template <class F>
void for_each_run(const Rows& rows, std::int64_t count, F f) {
  if (rows.origins.empty()) return f(std::int64_t{0}, std::int64_t{0}, count);
  for (std::size_t b = 0; b < rows.origins.size(); ++b) {
    f(rows.offsets[b], rows.origins[b], rows.offsets[b + 1] - rows.offsets[b]);
  }
}

// write(to, kept value) for every element; four decisions come from one block of random bits.
template <class T, class Write>
void apply(const Mask& mask, const Tensor& from, const Tensor& to, const Rows& rows, Write write) {
  const Philox random(mask.seed, mask.stream);
  const auto threshold = static_cast<std::uint64_t>(mask.probability * 0x1p32);
  const T scale = static_cast<T>(1 / (1 - mask.probability));
  const std::int64_t width = from.size(1);
  const auto apply_row = [&](std::int64_t n, std::int64_t origin) {
    const T* in = from.data<T>() + n * from.stride(0);
    T* out = to.data<T>() + n * to.stride(0);
    const auto blocks = static_cast<std::uint64_t>(origin * ((width + 3) / 4));
    for (std::int64_t i = 0; i < width; i += 4) {
      const auto bits = random.block(blocks + static_cast<std::uint64_t>(i / 4));
      for (std::int64_t j = i; j < width && j < i + 4; ++j) {
        const bool kept = bits[static_cast<std::size_t>(j - i)] >= threshold;
        write(out[j], kept ? in[j] * scale : T{0});
      }
    }
  };
  for_each_run(rows, from.size(0), [&](std::int64_t row, std::int64_t origin, std::int64_t count) {
    parallel_ranges(count, 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t j = begin; j < end; ++j) apply_row(row + j, origin + j);
    });
  });
}

template <class Write>
void dispatch(const Mask& mask, const Tensor& from, const Tensor& to, const Rows& rows,
              bool accumulate, Write write) {
  check(mask, from, to, rows);
  if constexpr (cuda_built) {
    if (from.device().is_cuda()) return cuda::apply(mask, from, to, rows, accumulate);
  }
  if (from.dtype() == DType::f64) return apply<double>(mask, from, to, rows, write);
  return apply<float>(mask, from, to, rows, write);
}

}  // namespace

void forward(const Mask& mask, const Tensor& x, Tensor y, const Rows& rows) {
  dispatch(mask, x, y, rows, false, [](auto& out, auto value) { out = value; });
}

void backward(const Mask& mask, const Tensor& dy, Tensor dx, const Rows& rows) {
  dispatch(mask, dy, dx, rows, true, [](auto& out, auto value) { out += value; });
}

}  // namespace metala::dropout
