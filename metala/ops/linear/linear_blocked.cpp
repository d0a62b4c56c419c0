// Linear maps of more than a few rows: a block of rows of W at a time meets all rows of x. Here x
// is laid out and the blocks are handed out; they are multiplied in linear_floats.cpp,
// linear_integers.cpp, linear_bf16_blocked.cpp and linear_vnni_blocked.cpp.
#include <algorithm>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "metala/base/profile.h"
#include "metala/base/shares.h"
#include "metala/base/threads.h"
#include "metala/ops/linear/linear_bf16_cpu.h"
#include "metala/ops/linear/linear_blocks_cpu.h"
#include "metala/ops/linear/linear_cpu.h"
#include "metala/ops/linear/linear_vnni_cpu.h"

namespace metala::linear::cpu {
namespace {

// Owns panels of `rows` of the `count` rows of x, `words` of 32 bits for each of `lanes`; they are
// laid out in parts of part_columns columns of a panel.
class LaidOut {
 public:
  struct Form {
    std::size_t rows, lanes, words, words_of_part;
    // first row, rows, first column, columns, to
    std::function<void(std::size_t, std::size_t, std::size_t, std::size_t, std::int32_t*)> lay;
  };
  LaidOut(const Tensor& x, Form form)
      : form_(std::move(form)),
        count_(static_cast<std::size_t>(x.size(0))),
        in_(static_cast<std::size_t>(x.size(1))) {
    const auto size = [](std::size_t n) { return static_cast<std::int64_t>(n); };
    words_ = Tensor::uninitialized(
        {size((count_ + form_.rows - 1) / form_.rows), size(form_.words), size(form_.lanes)},
        DType::i32);
  }
  std::size_t parts() const { return static_cast<std::size_t>(words_.size(0)) * parts_of_panel(); }
  void lay_out(std::size_t i) const {
    const std::size_t panel = i / parts_of_panel(), part = i % parts_of_panel();
    const std::size_t row = panel * form_.rows, column = part * part_columns;
    form_.lay(row, std::min(form_.rows, count_ - row), column, std::min(part_columns, in_ - column),
              words_.data<std::int32_t>() +
                  (panel * form_.words + part * form_.words_of_part) * form_.lanes);
  }
  // Those of the rows from `row` on, at most block_lanes.
  Panels panels(std::size_t row) const {
    const auto size = [&](int i) { return static_cast<std::size_t>(words_.size(i)); };
    const std::size_t first = row / form_.rows;
    return {words_.data<std::int32_t>() + first * size(1) * size(2),
            std::min(block_lanes / form_.rows, size(0) - first), size(1), size(2)};
  }

 private:
  std::size_t parts_of_panel() const { return (in_ + part_columns - 1) / part_columns; }
  Form form_;
  std::size_t count_, in_;
  Tensor words_;
};

// `columns` columns of some rows, in rows of part_columns.
void round_part_to_bf16(const float* x, std::size_t stride, std::size_t rows, std::size_t columns,
                        float* to) {
  for (std::size_t n = 0; n < rows; ++n) {
    round_to_bf16(x + n * stride, columns, to + n * part_columns);
  }
}

LaidOut laid_out_floats(const Tensor& x, bool of_bf16) {
  const std::size_t in = static_cast<std::size_t>(x.size(1)), two = 2 * float_lanes();
  return {x,
          {panel_rows, panel_rows, (in + two - 1) / two * two, part_columns,
           [x, of_bf16](std::size_t row, std::size_t rows, std::size_t k, std::size_t some,
                        std::int32_t* to) {
             const auto stride = static_cast<std::size_t>(x.stride(0));
             const float* from = x.data<float>() + row * stride + k;
             auto* words = reinterpret_cast<float*>(to);
             if (!of_bf16) return lay_out_floats(from, stride, rows, some, false, words);
             float halves[panel_rows * part_columns];
             round_part_to_bf16(from, stride, rows, some, halves);
             lay_out_floats(halves, part_columns, rows, some, true, words);
           }}};
}

LaidOut laid_out_pairs_of_bf16(const Tensor& x) {
  using pairs_of_bf16::lane_rows, pairs_of_bf16::unit;
  const auto in = static_cast<std::size_t>(x.size(1));
  return {
      x,
      {lane_rows, pairs_of_bf16::lanes, (in + unit - 1) / unit * unit / 2, part_columns / 2,
       [x](std::size_t row, std::size_t rows, std::size_t k, std::size_t some, std::int32_t* to) {
         const auto stride = static_cast<std::size_t>(x.stride(0));
         float halves[lane_rows * part_columns];
         round_part_to_bf16(x.data<float>() + row * stride + k, stride, rows, some, halves);
         pairs_of_bf16::lay_out(halves, part_columns, rows, some, to);
       }}};
}

LaidOut laid_out_integers(const Tensor& x, bool by_vnni) {
  const auto in = static_cast<std::size_t>(x.size(1));
  const std::size_t lanes =
      by_vnni ? vnni::lanes : integer_lanes(static_cast<std::size_t>(x.size(0)));
  const auto words = [&](std::size_t columns) {
    return by_vnni ? vnni::words_of(columns) : words_of(columns);
  };
  return {x,
          {by_vnni ? vnni::lane_rows : lanes, lanes, words(in), words(part_columns),
           [x, by_vnni, lanes](std::size_t row, std::size_t rows, std::size_t k, std::size_t some,
                               std::int32_t* to) {
             const float* from = x.data<float>() + k;
             RoundedPart part;
             for (std::size_t n = 0; n < rows; ++n) {
               const auto r = static_cast<std::int64_t>(row + n);
               round_row(from + r * x.stride(0), some, part.bytes[n], part.steps[n]);
             }
             const std::size_t groups = some / quantized::group;
             if (by_vnni) return vnni::lay_out(part, rows, groups, to);
             lay_out_integers(part, rows, groups, lanes, to);
           }}};
}

// Rows of results that are fetched before a block is multiplied: where there are many, multiplying
// takes so long that a wait for them does not count.
constexpr std::size_t fetched_rows = 32;

// Lays out a part of the first form that has so many, or of one after it.
void lay_out_part(std::span<const LaidOut* const> forms, std::size_t part) {
  for (const LaidOut* form : forms) {
    if (part < form->parts()) return form->lay_out(part);
    part -= form->parts();
  }
}

}  // namespace

void forward_blocked(const Tensor& x, std::span<const Map> maps, bool accumulate) {
  const std::int64_t rows = x.size(0), in = x.size(1);
  const std::int64_t blocks = count_of_blocks(maps, block_rows);
  if (rows == 0 || blocks == 0) return;
  const profile::Scope scope("matrix products", flops_of(x, maps));
  // Which instructions Highway has chosen says nothing of which this processor has beside them.
  const bool by_vnni = vnni::available(), in_pairs = pairs_of_bf16::available();
  std::optional<LaidOut> floats, of_bf16, integers;
  for (const auto& map : maps) {
    const DType type = map.weight.dtype();
    if (type == DType::bf16) {
      if (!of_bf16) of_bf16 = in_pairs ? laid_out_pairs_of_bf16(x) : laid_out_floats(x, true);
    } else if (!in_blocks(type)) {
      if (!floats) floats = laid_out_floats(x, false);
    } else if (!integers) {
      integers = laid_out_integers(x, by_vnni);
    }
  }
  const auto threads = static_cast<int>(std::min<std::int64_t>(thread_count(), blocks));
  Shares shares(blocks, threads);
  const auto weights_of = [&](std::int64_t block) {
    return block < 0 ? WeightRows() : block_of(maps, block_rows, block).weights();
  };

  // The first block that a thread is to work on is fetched while it lays out x.
  std::vector<const LaidOut*> forms;
  std::size_t parts = 0;
  for (const auto* form : {&floats, &of_bf16, &integers}) {
    if (!*form) continue;
    forms.push_back(&**form);
    parts += forms.back()->parts();
  }
  parallel_tasks(threads, [&](std::int64_t share) {
    const auto i = static_cast<std::size_t>(share), all = static_cast<std::size_t>(threads);
    const std::size_t begin = parts * i / all, end = parts * (i + 1) / all;
    Ahead ahead(weights_of(shares.peek(static_cast<int>(share))), end - begin + 1);
    ahead.step();
    for (std::size_t part = begin; part < end; ++part) {
      lay_out_part(forms, part);
      ahead.step();
    }
  });

  const auto work_on = [&](const Chunk& block, const WeightRows& next) {
    const WeightRows w = block.weights();
    const Results results = block.results(accumulate);
    const bool packed = in_blocks(w.type), narrow = w.type == DType::bf16;
    const LaidOut& laid_out = packed ? *integers : narrow ? *of_bf16 : *floats;
    const auto multiply = packed ? by_vnni ? vnni::block_of_integers : block_of_integers
                          : narrow && in_pairs ? pairs_of_bf16::block_of_bf16
                                               : block_of_floats;
    alignas(64) float sums[block_lanes * block_rows];
    if (in == 0) std::fill_n(sums, block_lanes * block_rows, 0.0f);
    for (std::size_t n = 0; n < std::min(static_cast<std::size_t>(rows), fetched_rows); ++n) {
      results.fetch(n, w.count);
    }
    for (std::size_t first = 0; first < static_cast<std::size_t>(rows); first += block_lanes) {
      const std::size_t live = std::min(block_lanes, static_cast<std::size_t>(rows) - first);
      if (in > 0) multiply(w, next, laid_out.panels(first), sums);
      put_sums(results, first, live, w.count, sums);
    }
  };
  // Each thread knows the block after the one that it works on, for its weights to be on their way.
  parallel_tasks(threads, [&](std::int64_t share) {
    const auto take = [&] { return shares.take(static_cast<int>(share)); };
    for (std::int64_t block = take(); block >= 0;) {
      const std::int64_t next = take();
      work_on(block_of(maps, block_rows, block), weights_of(next));
      block = next;
    }
  });
}

}  // namespace metala::linear::cpu
