// The fused kernels against the operators' own definitions in double.
#include <gtest/gtest.h>

#ifndef METALA_CUDA

TEST(DecodeOnGpu, IsBuiltWithCudaOnly) {
  GTEST_SKIP() << "built without CUDA";
}

#else

#include <algorithm>

#include "metala/harness/compare.h"
#include "metala/harness/gpu.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/decode/decode_cuda.h"
#include "metala/ops/layer_norm/layer_norm.h"
#include "metala/ops/linear/linear.h"
#include "metala/ops/metala_attention/metala_attention_problem.h"
#include "metala/ops/rms_norm/rms_norm.h"
#include "metala/ops/short_conv/short_conv.h"

namespace metala::decode::cuda {
namespace {

using namespace harness;

constexpr double in_float = 3e-6;  // sums in float32 of exact products
constexpr double in_bf16 = 4e-3;   // a result's rounding to bf16
constexpr double of_gates = 2e-5;  // gates' exponentials (metala_attention_gates.cuh)

Tensor bf16_normal(Shape shape, std::uint64_t seed, double deviation = 1) {
  return random_normal(shape, DType::f32, seed, deviation).cast(DType::bf16);
}

// x W^T in double.
Tensor product(const Tensor& x, const Tensor& weight) {
  const Tensor y = Tensor::zeros({x.size(0), weight.size(0)}, DType::f64);
  linear::forward(x.cast(DType::f64), weight.cast(DType::f64), {}, y);
  return y;
}

std::vector<std::int64_t> one_each(std::int64_t sequences) {
  std::vector<std::int64_t> offsets;
  for (std::int64_t b = 0; b <= sequences; ++b) offsets.push_back(b);
  return offsets;
}

class DecodeOnGpu : public GpuTest {
 protected:
  Tensor blank(Shape shape, DType type) const { return poisoned(shape, type).to(gpu_); }
};

TEST_F(DecodeOnGpu, ProjectsLikeTheReferenceWithMatricesSideBySide) {
  for (const std::int64_t in : {32, 96, 1024, 1056, 2816}) {
    for (const std::int64_t rows : {1, 2, 3, 8, 9, 16, 17, 40, 64, 65}) {
      const Tensor y = bf16_normal({rows, in}, 1);
      const Tensor a = bf16_normal({48, in}, 2);
      const Tensor b = bf16_normal({8, in}, 3);
      const Tensor c = bf16_normal({256, in}, 4);
      const std::array<Tensor, 3> there_all = {there(a), there(b), there(c)};
      const Tensor out = blank({rows, 312}, DType::f32);
      project({there(y), {}, {}, {}, {}}, there_all, out);
      EXPECT_TRUE(close(out.to({}).slice(1, 0, 48), product(y, a), in_float)) << in << " " << rows;
      EXPECT_TRUE(close(out.to({}).slice(1, 48, 56), product(y, b), in_float)) << in << " " << rows;
      EXPECT_TRUE(close(out.to({}).slice(1, 56, 312), product(y, c), in_float))
          << in << " " << rows;
    }
  }
}

// Rows of one matrix, as a model's projections lie.
TEST_F(DecodeOnGpu, ProjectsStackedMatricesLikeTheReferenceAndWithTheSameBitsTwice) {
  for (const std::int64_t in : {32, 96, 160, 1024, 1056, 2816}) {
    for (const std::int64_t rows : {9, 16, 17, 33, 64, 65, 100, 128, 129}) {
      const Tensor y = bf16_normal({rows, in}, 1);
      const Tensor stack = bf16_normal({312, in}, 2);
      const Tensor w = there(stack);
      const std::array<Tensor, 3> matrices = {w.rows(0, 48), w.rows(48, 56), w.rows(56, 312)};
      const Tensor out = blank({rows, 312}, DType::f32);
      project({there(y), {}, {}, {}, {}}, matrices, out);
      EXPECT_TRUE(close(out.to({}), product(y, stack), in_float)) << in << " " << rows;
      const Tensor again = blank({rows, 312}, DType::f32);
      project({there(y), {}, {}, {}, {}}, matrices, again);
      EXPECT_TRUE(same_bits(again.to({}), out.to({}))) << in << " " << rows;
    }
  }
}

// The more tiles, the fewer blocks share one.
TEST_F(DecodeOnGpu, ProjectsIntoMoreTilesThanThereAreMultiprocessors) {
  for (const std::int64_t out : {3072, 8192, 12296}) {
    for (const std::int64_t rows : {12, 40, 64, 100}) {
      const Tensor y = bf16_normal({rows, 288}, 1);
      const Tensor w = bf16_normal({out, 288}, 2);
      const Tensor wider = blank({rows, out + 8}, DType::f32);
      project({there(y), {}, {}, {}, {}}, std::array{there(w)}, wider.slice(1, 0, out));
      EXPECT_TRUE(close(wider.to({}).slice(1, 0, out).copy(), product(y, w), in_float))
          << out << " " << rows;
    }
  }
}

TEST_F(DecodeOnGpu, ProjectsIntoAnyNumberOfColumns) {
  for (const std::int64_t out : {1, 7, 23, 4000, 32001}) {
    for (const std::int64_t rows : {1, 20}) {
      const Tensor y = bf16_normal({rows, 64}, 1);
      const Tensor w = bf16_normal({out, 64}, 2);
      const Tensor got = blank({rows, out}, DType::f32);
      project({there(y), {}, {}, {}, {}}, std::array{there(w)}, got);
      EXPECT_TRUE(close(got.to({}), product(y, w), in_float)) << out << " " << rows;
    }
  }
}

TEST_F(DecodeOnGpu, AddsOntoTheResidual) {
  for (const std::int64_t in : {64, 1024, 5632}) {
    for (const std::int64_t rows : {1, 2, 11, 17, 33, 64, 65, 128, 130}) {
      const Tensor y = bf16_normal({rows, in}, 1);
      const Tensor w = bf16_normal({96, in}, 2);
      const Tensor bias = random_normal({96}, DType::f32, 3);
      const Tensor x = random_normal({rows, 96}, DType::f32, 4);
      const Tensor products = product(y, w);
      for (const bool biased : {false, true}) {
        const Tensor got = there(x);
        project_onto(there(y), there(w), biased ? there(bias) : Tensor(), got);
        const Tensor want = products.copy();
        for (std::int64_t i = 0; i < want.count(); ++i) {
          want.data<double>()[i] += x.data<float>()[i];
          if (biased) want.data<double>()[i] += bias.data<float>()[i % 96];
        }
        EXPECT_TRUE(close(got.to({}), want, in_float)) << in << " " << rows << " " << biased;
      }
    }
  }
}

TEST_F(DecodeOnGpu, GatesWithEveryActivationAndWithout) {
  const std::int64_t width = 200;
  for (const auto activation : {glu::Activation::silu, glu::Activation::gelu, glu::Activation::relu,
                                glu::Activation::two_plus_elu, glu::Activation::sine}) {
    for (const std::int64_t rows : {1, 2, 5, 18, 64, 70, 140}) {
      const Tensor y = bf16_normal({rows, 160}, 1);
      const Tensor w1 = bf16_normal({width, 160}, 2, 0.1);
      const Tensor w2 = bf16_normal({width, 160}, 3, 0.1);
      const Tensor b1 = random_normal({width}, DType::f32, 4);
      const Tensor b2 = random_normal({width}, DType::f32, 5);
      for (const bool paired : {true, false}) {
        for (const bool biased : {true, false}) {
          const Gated gated = {activation, there(w1), biased ? there(b1) : Tensor(),
                               paired ? there(w2) : Tensor(),
                               paired && biased ? there(b2) : Tensor()};
          const Tensor h = blank({rows, width}, DType::bf16);
          project_gated({there(y), {}, {}, {}, {}}, gated,
                        blank({rows, paired ? 2 * width : width}, DType::f32), h);
          const auto biased_product = [&](const Tensor& w, const Tensor& b) {
            const Tensor p = product(y, w);
            for (std::int64_t i = 0; biased && i < p.count(); ++i) {
              p.data<double>()[i] += b.data<float>()[i % width];
            }
            return p;
          };
          const Tensor want = Tensor::zeros({rows, width}, DType::f64);
          glu::forward(activation, biased_product(w1, b1),
                       paired ? biased_product(w2, b2) : Tensor(), want);
          EXPECT_TRUE(close(h.to({}), want, in_bf16))
              << glu::name_of(activation) << ", rows " << rows << paired << biased;
        }
      }
    }
  }
}

struct RowProblem {
  std::int64_t rows, width, taps;
  bool layer_norm;
};

class DecodeRowsOnGpu : public DecodeOnGpu {
 protected:
  // Inputs on the CPU, and what the operators make of them in double.
  struct Case {
    Tensor x, weight, bias, taps, inputs;
    Tensor normed, y;
  };
  static Case make(const RowProblem& p) {
    Case c;
    c.x = random_normal({p.rows, p.width}, DType::f32, 1, 3, 0.5);
    c.normed = Tensor::zeros({p.rows, p.width}, DType::f64);
    if (p.layer_norm) {
      c.weight = random_normal({p.width}, DType::f32, 2);
      c.bias = random_normal({p.width}, DType::f32, 3);
      layer_norm::forward(c.x.cast(DType::f64), c.weight.cast(DType::f64), c.bias.cast(DType::f64),
                          1e-5, c.normed);
    } else {
      rms_norm::forward(c.x.cast(DType::f64), 1e-6, c.normed);
    }
    c.y = c.normed;
    if (p.taps == 0) return c;
    c.taps = random_normal({p.width, p.taps}, DType::f32, 4);
    c.inputs = random_normal({p.rows, p.width, p.taps}, DType::f32, 5);
    c.y = Tensor::zeros({p.rows, p.width}, DType::f64);
    short_conv::forward(c.normed, c.taps.cast(DType::f64), one_each(p.rows),
                        c.inputs.cast(DType::f64), c.y, {});
    return c;
  }
  Norm norm_of(const Case& c) const {
    return {there(c.weight), there(c.bias), c.weight.defined() ? 1e-5 : 1e-6};
  }
};

TEST_F(DecodeRowsOnGpu, NormsAndConvolvesLikeTheOperators) {
  for (const std::int64_t width : {32, 1024, 1056, 2048, 8192}) {
    for (const std::int64_t taps : {0, 1, 4, 7}) {
      for (const bool layer_norm : {false, true}) {
        const Case c = make({3, width, taps, layer_norm});
        const Tensor y = blank({3, width}, DType::bf16);
        const Tensor normed = taps > 0 ? blank({3, width}, DType::f32) : Tensor();
        normalise(norm_of(c), {there(c.taps), there(c.inputs)}, there(c.x), y, normed);
        EXPECT_TRUE(close(y.to({}), c.y, in_bf16)) << width << " " << taps;
        if (taps > 0) {
          EXPECT_TRUE(close(normed.to({}), c.normed, in_float)) << width;
        }
      }
    }
  }
}

TEST_F(DecodeRowsOnGpu, RowsMadeOnTheWayGiveTheSameBitsAsRowsMadeBeforehand) {
  for (const std::int64_t width : {32, 96, 1024, 2048}) {
    for (std::int64_t rows = 1; rows <= most_fused_rows; ++rows) {
      const Case c = make({rows, width, 4, true});
      const Conv conv = {there(c.taps), there(c.inputs)};
      const Tensor w = there(bf16_normal({200, width}, 7));
      const Tensor y = blank({rows, width}, DType::bf16);
      const Tensor normed = blank({rows, width}, DType::f32);
      normalise(norm_of(c), conv, there(c.x), y, normed);
      const Tensor want = blank({rows, 200}, DType::f32);
      project({y, {}, {}, {}, {}}, std::array{w}, want);
      const Tensor got = blank({rows, 200}, DType::f32);
      const Tensor normed_on_the_way = blank({rows, width}, DType::f32);
      project({{}, there(c.x), norm_of(c), conv, normed_on_the_way}, std::array{w}, got);
      EXPECT_TRUE(same_bits(got.to({}), want.to({}))) << width << " " << rows;
      EXPECT_TRUE(same_bits(normed_on_the_way.to({}), normed.to({}))) << width << " " << rows;

      const Gated gated = {glu::Activation::silu, w, {}, there(bf16_normal({200, width}, 8)), {}};
      const Tensor scratch = blank({rows, 400}, DType::f32);
      const Tensor h = blank({rows, 200}, DType::bf16);
      const Tensor h_on_the_way = blank({rows, 200}, DType::bf16);
      normalise(norm_of(c), {}, there(c.x), y, {});
      project_gated({y, {}, {}, {}, {}}, gated, scratch, h);
      project_gated({{}, there(c.x), norm_of(c), {}, {}}, gated, scratch, h_on_the_way);
      EXPECT_TRUE(same_bits(h_on_the_way.to({}), h.to({}))) << width << " " << rows;
    }
  }
}

TEST_F(DecodeRowsOnGpu, TheNormAsAMixerIsAdded) {
  for (const std::int64_t width : {32, 1024, 4096}) {
    const Case c = make({3, width, 0, true});
    const Tensor x = there(c.x);
    add_normalised(norm_of(c), x);
    const Tensor want = c.x.cast(DType::f64);
    for (std::int64_t i = 0; i < want.count(); ++i) {
      want.data<double>()[i] += c.normed.data<double>()[i];
    }
    EXPECT_TRUE(close(x.to({}), want, in_float)) << width;
  }
}

class DecodeAttentionOnGpu : public DecodeOnGpu {
 protected:
  // One token for each of the problem's sequences, but for those that stand still.
  void expect_step(const metala_attention::Problem& p, const std::vector<std::int32_t>& ids,
                   std::int64_t taps) {
    SCOPED_TRACE(p.text());
    const metala_attention::Inputs in = metala_attention::inputs_of(p);
    const std::int64_t sequences = p.batch();
    const std::int64_t channels = p.heads * p.value_width;
    const Tensor z_bias = random_normal({channels}, DType::f32, 20);
    const Tensor conv_inputs = random_normal({sequences, channels, taps}, DType::f32, 21);
    const Tensor normed = random_normal({sequences, channels}, DType::f32, 22);

    metala_attention::Inputs exact = metala_attention::cast(in, DType::f64);
    for (std::int64_t i = 0; i < exact.z.count(); ++i) {
      exact.z.data<double>()[i] += z_bias.data<float>()[i % channels];
    }
    const auto want = metala_attention::run_forward(p, exact);

    const metala_attention::Inputs moved = {there(in.q),           there(in.u),     there(in.k),
                                            there(in.v),           there(in.z),     there(in.aug),
                                            there(in.fixed_decay), there(in.before)};
    const Conv conv = {blank({channels, taps}, DType::f32), there(conv_inputs)};
    const Tensor o = blank({sequences, channels}, DType::bf16);
    const auto ids_there = mirrored(ids);
    attention_step(p.options(), moved, there(z_bias), conv, there(normed), ids_there.there(), o);
    const Tensor state = moved.before.to({});
    const Tensor shifted = conv.inputs.to({});
    const Tensor out = o.to({});
    for (std::int64_t n = 0; n < sequences; ++n) {
      if (ids[static_cast<std::size_t>(n)] < 0) {
        EXPECT_TRUE(same_bits(state.row(n), in.before.row(n))) << n;
        EXPECT_TRUE(same_bits(shifted.row(n), conv_inputs.row(n))) << n;
        continue;
      }
      EXPECT_TRUE(close(state.row(n), want.after.row(n), of_gates)) << n;
      EXPECT_TRUE(close(out.row(n), want.o.row(n), in_bf16)) << n;
      for (std::int64_t i = n * channels; i < (n + 1) * channels; ++i) {
        const float* was = conv_inputs.data<float>() + taps * i;
        const float* is = shifted.data<float>() + taps * i;
        EXPECT_TRUE(std::equal(was + 1, was + taps, is) && is[taps - 1] == normed.data<float>()[i])
            << i;
      }
    }
  }
};

TEST_F(DecodeAttentionOnGpu, StepsLikeTheReferenceForAllWidthsAndOptions) {
  using metala_attention::Decay;
  std::vector<metala_attention::Problem> problems;
  const std::pair<std::int64_t, std::int64_t> widths[] = {
      {64, 128}, {128, 256}, {32, 32}, {1, 4}, {3, 8}, {24, 96}, {256, 256}, {100, 20}};
  for (const auto& [key_width, value_width] : widths) {
    metala_attention::Problem p;
    p.lengths = {1, 1, 1};
    p.key_width = key_width;
    p.value_width = value_width;
    problems.push_back(p);
    for (const auto pattern : metala_attention::all_gate_patterns) {
      p.gates = pattern;
      problems.push_back(p);
    }
    p.gates = metala_attention::GatePattern::forgetting;
    p.temperature = 200;  // gates far below 0 that still remember
    problems.push_back(p);
    p.temperature = 16;
    p.gates = metala_attention::GatePattern::normal;
    p.tied = false;
    problems.push_back(p);
    p.decay = Decay::fixed;
    problems.push_back(p);
    p.decay = Decay::none;
    p.augmented = false;
    problems.push_back(p);
  }
  for (const auto& p : problems) expect_step(p, {0, 0, 0}, 4);
}

TEST_F(DecodeAttentionOnGpu, SequencesMayStandStill) {
  for (const std::int64_t taps : {3, 4}) {
    metala_attention::Problem p;
    p.lengths = {1, 1, 1, 1, 1};
    p.key_width = 24;
    p.value_width = 40;
    expect_step(p, {7, -1, -1, 0, -1}, taps);
  }
}

}  // namespace
}  // namespace metala::decode::cuda

#endif
