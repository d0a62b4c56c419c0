// The fast forms, picked by linear.cpp. Arguments are checked before they come here.
#pragma once

#include <span>
#include <vector>

#include "metala/base/tensor.h"
#include "metala/ops/linear/linear.h"

namespace metala::linear::cpu {

// Up to here x meets W row by row; beyond, in blocks (README, "Ladder").
constexpr std::int64_t streaming_rows = 4;

// Beyond these, f32 weights go to the BLAS, which is as fast.
constexpr std::int64_t blocked_rows_of_f32 = 32;

// f32 x; W in any type. One to `streaming_rows` rows of x: W is streamed once, row by row.
void forward_streaming(const Tensor& x, std::span<const Map>, bool accumulate);

// Any number of rows of x: blocks of W are made wide and meet all of x.
void forward_blocked(const Tensor& x, std::span<const Map>, bool accumulate);

// f32 W and many rows of x.
void forward_blas(const Tensor& x, const Map&, bool accumulate);
void backward_input_blas(const Tensor& dy, const Tensor& weight, Tensor dx);
void backward_weight_blas(const Tensor& dy, const Tensor& x, Tensor dweight, Tensor dbias);

// Some consecutive rows of W.
struct WeightRows {
  const std::byte* first = nullptr;
  std::size_t row_bytes = 0;
  DType type = DType::f32;
  std::size_t count = 0, in = 0;
  const std::byte* row(std::size_t r) const { return first + r * row_bytes; }
};

// Where their products with x go.
struct Results {
  float* y;  // of the first of these rows
  std::size_t stride;
  const float* bias;  // null without
  bool accumulate;
  void put(std::size_t n, std::size_t o, float value) const {
    float& to = y[n * stride + o];
    const float sum = value + (bias == nullptr ? 0.0f : bias[o]);
    to = accumulate ? to + sum : sum;
  }
  // Results lie where the other cores have them: to be fetched some time before they are put.
  void fetch(std::size_t n, std::size_t count) const {
    for (std::size_t o = 0; o < count; o += 16) __builtin_prefetch(y + n * stride + o);
  }
};

// What a thread works on at a time: rows [begin, end) of one map.
struct Chunk {
  const Map* map = nullptr;
  std::int64_t begin = 0, end = 0;
  WeightRows weights() const;
  Results results(bool accumulate) const;
};

// All rows of all maps. Chunks shrink as what is left shrinks: long ones for the prefetcher, short
// ones last, so that threads end together although one reads faster than another.
std::vector<Chunk> shrinking_chunks(std::span<const Map>);

// The same in blocks of `rows` rows.
std::int64_t count_of_blocks(std::span<const Map>, std::int64_t rows);
Chunk block_of(std::span<const Map>, std::int64_t rows, std::int64_t block);

// x in bytes, for W in blocks, as linear_reference.h defines it (round_row).
struct RoundedRows {
  Tensor signed_bytes;  // [count, width]
  Tensor all_steps;     // [count, width / 32]
  std::size_t count = 0, width = 0;
  std::int8_t* bytes(std::size_t row) const {
    return static_cast<std::int8_t*>(signed_bytes.raw()) + row * width;
  }
  float* steps(std::size_t row) const { return all_steps.data<float>() + row * (width / 32); }
};
RoundedRows rounded(const Tensor& x);
// n elements of a row, a multiple of 32.
void round_row(const float* x, std::size_t n, std::int8_t* to, float* steps);

// x as it meets W in bf16: each element the nearest bf16, in f32.
Tensor rounded_to_bf16(const Tensor& x);
void round_to_bf16(const float* x, std::size_t n, float* to);

double flops_of(const Tensor& x, std::span<const Map>);
bool any_in_blocks(std::span<const Map>);
bool any_in_bf16(std::span<const Map>);

// The forms of forward_streaming for some rows of W, two that lie far apart at a time.
void stream_floats(const WeightRows&, const float* x, std::size_t x_stride, std::size_t x_rows,
                   const Results&);
// `x` holds the bytes of `rows` in 16 bits.
void stream_integers(const WeightRows&, const std::int16_t* x, const RoundedRows& rows,
                     const Results&);

}  // namespace metala::linear::cpu
