// Labelled rows are gathered into tiles. A tile's logits come from one matrix product, each row
// becomes its own gradient in place (a thread owns a row), and two more products carry the tile
// into dx and dW.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "metala/ops/cross_entropy/cross_entropy_cpu.cpp"
#include <hwy/foreach_target.h>  // compiles the lines below once per instruction set

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "metala/base/threads.h"
#include "metala/device/cpu/matrix_product.h"
#include "metala/device/cpu/vector-inl.h"
#include "metala/ops/cross_entropy/cross_entropy_cpu.h"
#include "metala/ops/linear/linear.h"

HWY_BEFORE_NAMESPACE();
namespace metala::cross_entropy::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using vector::HWY_NAMESPACE::Floats;
using vector::HWY_NAMESPACE::for_lanes;
using vector::HWY_NAMESPACE::sum_of;

// Terms summed in f32 before a sum goes on in double, so that rounding does not grow with the
// vocabulary.
constexpr std::size_t terms_of_partial_sum = 4096;

// Replaces a row of logits z by scale * (softmax(z) - onehot(label)), or leaves it alone when
// `gradient` is false; returns the row's loss. `best` is the row's first largest.
float loss_row(float* z, std::size_t vocabulary, std::size_t label, std::size_t best, float scale,
               bool gradient) {
  const Floats d;
  const float largest = z[best];
  const float own = z[label];
  const auto shift = hn::Set(d, largest);
  double sum = 0;
  for (std::size_t begin = 0; begin < vocabulary; begin += terms_of_partial_sum) {
    float* part = z + begin;
    auto partial = hn::Zero(d);
    for_lanes(std::min(terms_of_partial_sum, vocabulary - begin), [&](auto lanes) {
      const auto e = lanes.keep(hn::Exp(d, hn::Sub(lanes.load(part), shift)));
      partial = hn::Add(partial, e);
      if (gradient) lanes.store(e, part);
    });
    sum += static_cast<double>(sum_of(partial));
  }
  if (gradient) {
    const auto share = hn::Set(d, static_cast<float>(static_cast<double>(scale) / sum));
    for_lanes(vocabulary, [&](auto lanes) { lanes.store(hn::Mul(lanes.load(z), share), z); });
    z[label] -= scale;
  }
  return static_cast<float>(std::log(sum)) + (largest - own);
}

// The first largest element, or the first NaN if there is one. Highway's Exp turns NaN into 0, so
// a NaN that is not found here would be lost; found, it makes loss and gradients NaN.
std::size_t first_largest(const float* z, std::size_t n) {
  const Floats d;
  const std::size_t width = hn::Lanes(d);
  const std::size_t whole = n - n % width;
  auto most = hn::Set(d, z[0]);
  auto any_nan = hn::IsNaN(most);
  for (std::size_t at = 0; at < whole; at += width) {
    const auto value = hn::LoadU(d, z + at);
    most = hn::Max(most, value);
    any_nan = hn::Or(any_nan, hn::IsNaN(value));
  }
  float largest = hn::GetLane(hn::MaxOfLanes(d, most));
  bool nan = !hn::AllFalse(d, any_nan);
  for (std::size_t at = whole; at < n; ++at) {
    largest = std::max(largest, z[at]);
    nan = nan || std::isnan(z[at]);
  }
  const auto wanted = hn::Set(d, largest);
  for (std::size_t at = 0; at < whole; at += width) {
    const auto value = hn::LoadU(d, z + at);
    const auto found = hn::FindFirstTrue(d, nan ? hn::IsNaN(value) : hn::Eq(value, wanted));
    if (found >= 0) return at + static_cast<std::size_t>(found);
  }
  std::size_t at = whole;
  while (nan ? !std::isnan(z[at]) : z[at] != largest) ++at;
  return at;
}

}  // namespace metala::cross_entropy::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace metala::cross_entropy::cpu {
HWY_EXPORT(loss_row);
HWY_EXPORT(first_largest);

namespace {

// A tile of logits has 4 Mi elements (16 MiB of float32, within a server's last-level cache) but
// at least 256 rows: each tile reads and writes all of dW, which fewer rows do not pay for. README
// has the measurements.
constexpr std::int64_t tile_elements = 4 << 20;
constexpr std::int64_t fewest_rows = 256;
constexpr std::int64_t most_rows = 1024;

std::int64_t rows_of_tile(std::int64_t vocabulary) {
  return std::clamp(tile_elements / vocabulary, fewest_rows, most_rows);
}

}  // namespace

Result run(const Tensor& x, const Tensor& weight, Ids labels, double scale, const Gradients& to,
           const Rows& wanted) {
  const std::int64_t vocabulary = weight.size(0);
  const std::int64_t width = weight.size(1);
  const bool gradient = to.x.defined();
  if (wanted.loss.defined()) wanted.loss.fill_zero();
  if (wanted.best.defined()) std::fill_n(wanted.best.data<std::int32_t>(), labels.size(), -1);
  std::vector<std::int64_t> rows;
  for (std::size_t n = 0; n < labels.size(); ++n) {
    if (labels[n] >= 0) rows.push_back(static_cast<std::int64_t>(n));
  }
  Result result;
  if (rows.empty()) return result;

  const std::int64_t tile =
      std::min(rows_of_tile(vocabulary), static_cast<std::int64_t>(rows.size()));
  const Tensor inputs = Tensor::uninitialized({tile, width});
  const Tensor logits = Tensor::uninitialized({tile, vocabulary});
  const Tensor dinputs = gradient ? Tensor::uninitialized({tile, width}) : Tensor();
  std::vector<float> losses(static_cast<std::size_t>(tile));
  std::vector<std::size_t> best(static_cast<std::size_t>(tile));
  const auto find_best = HWY_DYNAMIC_DISPATCH(first_largest);
  const auto finish_row = HWY_DYNAMIC_DISPATCH(loss_row);

  for (std::size_t start = 0; start < rows.size(); start += static_cast<std::size_t>(tile)) {
    const std::int64_t count = std::min(tile, static_cast<std::int64_t>(rows.size() - start));
    const std::int64_t* own = rows.data() + start;
    const Tensor in = inputs.rows(0, count);
    const Tensor z = logits.rows(0, count);
    for (std::int64_t i = 0; i < count; ++i) in.row(i).copy_from(x.row(own[i]));
    linear::forward(in, weight, {}, z);
    parallel_ranges(count, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const auto at = static_cast<std::size_t>(i);
        float* row = z.data<float>() + i * z.stride(0);
        best[at] = find_best(row, static_cast<std::size_t>(vocabulary));
        losses[at] = finish_row(row, static_cast<std::size_t>(vocabulary),
                                static_cast<std::size_t>(labels[static_cast<std::size_t>(own[i])]),
                                best[at], static_cast<float>(scale), gradient);
      }
    });
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const auto n = static_cast<std::size_t>(own[i]);
      result.loss += static_cast<double>(losses[at]);
      ++result.count;
      result.correct += best[at] == static_cast<std::size_t>(labels[n]) ? 1 : 0;
      if (wanted.loss.defined()) wanted.loss.data<float>()[n] = losses[at];
      if (wanted.best.defined()) {
        wanted.best.data<std::int32_t>()[n] = static_cast<std::int32_t>(best[at]);
      }
    }
    if (!gradient) continue;
    const Tensor din = dinputs.rows(0, count);
    matrix_product(z, Transpose::no, weight, Transpose::no, 0.0f, din);
    matrix_product(z, Transpose::yes, in, Transpose::no, 1.0f, to.weight);
    parallel_ranges(count, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const float* from = din.data<float>() + i * din.stride(0);
        float* into = to.x.data<float>() + own[i] * to.x.stride(0);
        for (std::int64_t c = 0; c < width; ++c) into[c] += from[c];
      }
    });
  }
  return result;
}

}  // namespace metala::cross_entropy::cpu
#endif
