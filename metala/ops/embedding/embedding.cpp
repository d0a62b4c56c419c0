#include "metala/ops/embedding/embedding.h"

#include "metala/base/quantized.h"
#include "metala/base/threads.h"
#include "metala/ops/embedding/embedding_cuda.h"

namespace metala::embedding {
namespace {

void check_ids(Ids ids, std::int64_t rows) {
  for (std::size_t n = 0; n < ids.size(); ++n) {
    require(ids[n] >= 0 && ids[n] < rows, "embedding: id {} at position {}; the table has {} rows",
            ids[n], n, rows);
  }
}

// T: what is computed in; W: what the table holds. Plain copies: the same code is the definition
// (in double) and the fast form (memory-bound as it stands).
template <class T, class W>
void look_up(Ids ids, const Tensor& table, double scale, const Tensor& y) {
  const std::int64_t width = table.size(1);
  parallel_ranges(
      static_cast<std::int64_t>(ids.size()), 64, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t n = begin; n < end; ++n) {
          const W* from = table.data<W>() + ids[static_cast<std::size_t>(n)] * table.stride(0);
          T* to = y.data<T>() + n * y.stride(0);
          for (std::int64_t i = 0; i < width; ++i) {
            to[i] = static_cast<T>(from[i]) * static_cast<T>(scale);
          }
        }
      });
}

// Rows in blocks.
void look_up_blocks(Ids ids, const Tensor& table, double scale, const Tensor& y) {
  for (std::size_t n = 0; n < ids.size(); ++n) {
    float* to = y.data<float>() + static_cast<std::int64_t>(n) * y.stride(0);
    quantized::dequantize_row(table.row(ids[n]).raw(), table.size(1), table.dtype(), to);
    for (std::int64_t i = 0; i < table.size(1); ++i) to[i] *= static_cast<float>(scale);
  }
}

// Threads own columns, so repeated ids add up in the order of positions whatever their number.
template <class T>
void scatter(Ids ids, const Tensor& dy, double scale, const Tensor& dtable,
             std::int32_t frozen_id) {
  parallel_ranges(dtable.size(1), 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::size_t n = 0; n < ids.size(); ++n) {
      if (ids[n] == frozen_id) continue;
      const T* from = dy.data<T>() + static_cast<std::int64_t>(n) * dy.stride(0);
      T* to = dtable.data<T>() + ids[n] * dtable.stride(0);
      for (std::int64_t i = begin; i < end; ++i) to[i] += static_cast<T>(scale) * from[i];
    }
  });
}

}  // namespace

void forward(Ids ids, const Tensor& table, double scale, Tensor y) {
  require(table.defined() && table.rank() == 2, "embedding: table must be a matrix [V, d]");
  check_tensor("embedding: table", table, table.shape(), table.dtype());
  const Shape shape = {static_cast<std::int64_t>(ids.size()), table.size(1)};
  check_ids(ids, table.size(0));
  if constexpr (cuda_built) {
    if (table.device().is_cuda()) {
      check_tensor("embedding: y", y, shape, y.dtype());
      return cuda::forward(ids, table, scale, y);
    }
  }
  check_tensor("embedding: y", y, shape, accumulation_type(table.dtype()));
  switch (table.dtype()) {
    case DType::f64:
      return look_up<double, double>(ids, table, scale, y);
    case DType::f32:
      return look_up<float, float>(ids, table, scale, y);
    case DType::bf16:
      return look_up<float, bf16>(ids, table, scale, y);
    case DType::f16:
      return look_up<float, f16>(ids, table, scale, y);
    case DType::q8:
    case DType::q4:
      return look_up_blocks(ids, table, scale, y);
    default:
      fail("embedding: table is {}; wanted f32, bf16, f16, q8, q4 or f64", name_of(table.dtype()));
  }
}

void backward(Ids ids, const Tensor& dy, double scale, Tensor dtable, std::int32_t frozen_id) {
  require(dtable.defined() && dtable.rank() == 2, "embedding: dtable must be a matrix [V, d]");
  require(dtable.dtype() == DType::f32 || dtable.dtype() == DType::f64,
          "embedding: dtable is {}; wanted f32 or f64", name_of(dtable.dtype()));
  check_tensor("embedding: dtable", dtable, dtable.shape(), dtable.dtype());
  const Shape shape = {static_cast<std::int64_t>(ids.size()), dtable.size(1)};
  check_ids(ids, dtable.size(0));
  if constexpr (cuda_built) {
    if (dtable.device().is_cuda()) {
      check_tensor("embedding: dy", dy, shape, dy.dtype());
      return cuda::backward(ids, dy, scale, dtable, frozen_id);
    }
  }
  check_tensor("embedding: dy", dy, shape, dtable.dtype());
  if (dtable.dtype() == DType::f64) return scatter<double>(ids, dy, scale, dtable, frozen_id);
  return scatter<float>(ids, dy, scale, dtable, frozen_id);
}

}  // namespace metala::embedding
