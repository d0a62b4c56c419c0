#include "metala/ops/linear/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "metala/base/threads.h"
#include "metala/harness/compare.h"
#include "metala/harness/gradient_check.h"
#include "metala/harness/random_tensor.h"
#include "metala/ops/linear/linear_bf16_cpu.h"
#include "metala/ops/linear/linear_cpu.h"
#include "metala/ops/linear/linear_reference.h"
#include "metala/ops/linear/linear_vnni_cpu.h"

namespace metala {
namespace {

using namespace harness;

struct Case {
  std::int64_t rows, in, out;
};
// One row (decoding), rows around the switch from streaming to blocks, sizes at the seams of
// vectors and blocks.
const Case cases[] = {{1, 1, 1},    {1, 64, 33},   {1, 1000, 70}, {2, 17, 16},
                      {3, 63, 5},   {4, 64, 64},   {7, 65, 129},  {8, 100, 31},
                      {9, 100, 31}, {16, 257, 66}, {40, 48, 50},  {259, 30, 65},
                      {0, 5, 4},    {6, 0, 3},     {6, 3, 0},     {5, 1030, 35}};

// Summing n products rounds by at most about sqrt(n) eps of the largest sum here; 3e-6 covers
// n = 1000 with room.
constexpr double bound = 3e-6;

Tensor forward64(const Tensor& x, const Tensor& w, const Tensor& b, const Tensor& y, Write write) {
  const Tensor want = y.cast(DType::f64);
  const Tensor seen = w.dtype() == DType::bf16 ? x.cast(DType::bf16) : x;  // linear.h
  linear::forward(seen.cast(DType::f64), w.cast(DType::f64), b.defined() ? b.cast(DType::f64) : b,
                  want, write);
  return want;
}

// With the instructions of this processor for pairs of bf16 (one suite) and without (the other).
class LinearInFloats : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam() && !before_) GTEST_SKIP() << "this processor has no AVX-512 BF16";
    linear::cpu::pairs_of_bf16::set_available(GetParam());
  }
  void TearDown() override { linear::cpu::pairs_of_bf16::set_available(before_); }

 private:
  bool before_ = linear::cpu::pairs_of_bf16::available();
};

INSTANTIATE_TEST_SUITE_P(PairsOfBf16, LinearInFloats, ::testing::Bool());

TEST_P(LinearInFloats, FastFormsAgreeWithTheReferenceForEveryWeightType) {
  for (const auto& c : cases) {
    for (const auto type : {DType::f32, DType::bf16, DType::f16}) {
      for (const auto write : {Write::overwrite, Write::accumulate}) {
        for (const bool biased : {false, true}) {
          const Tensor x = strided(random_normal({c.rows, c.in}, DType::f32, 1));
          const Tensor w = strided(random_normal({c.out, c.in}, type, 2));
          const Tensor b = biased ? random_normal({c.out}, DType::f32, 3) : Tensor();
          const Tensor y =
              strided(write == Write::accumulate ? random_normal({c.rows, c.out}, DType::f32, 4)
                                                 : poisoned({c.rows, c.out}, DType::f32));
          const Tensor want = forward64(x, w, b, y, write);
          linear::forward(x, w, b, y, write);
          EXPECT_TRUE(close(y, want, bound))
              << c.rows << "x" << c.in << "x" << c.out << " " << name_of(type);
        }
      }
    }
  }
}

TEST_P(LinearInFloats, WhatIsNotFiniteInXReachesTheOutputsOfItsRow) {
  for (const std::int64_t rows : {2, 9}) {
    const Tensor w = random_normal({3, 70}, DType::f32, 2).cast(DType::bf16);
    for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
      const Tensor x = random_normal({rows, 70}, DType::f32, 1);
      x.data<float>()[70 + 69] = static_cast<float>(bad);
      const Tensor y = Tensor::zeros({rows, 3});
      linear::forward(x, w, {}, y);
      for (std::int64_t i = 0; i < y.count(); ++i) {
        EXPECT_EQ(std::isfinite(y.data<float>()[i]), i / 3 != 1) << i;
      }
    }
  }
}

// Half-way between two bf16, of both signs and all sizes, and what has no neighbours.
TEST(Linear, RowsAreRoundedToTheNearestBf16) {
  const Tensor x = strided(random_normal({9, 70}, DType::f32, 1));
  for (std::int64_t r = 0; r < 9; ++r) {
    float* row = x.data<float>() + r * x.stride(0);
    for (std::int64_t i = 0; i < 20; ++i) {
      const float halfway =
          std::ldexp(1 + static_cast<float>(2 * i + 1) / 256, 30 * static_cast<int>(r) - 120);
      row[i] = i % 2 == 0 ? halfway : -halfway;
    }
    row[20] = std::numeric_limits<float>::max();
    row[21] = -HUGE_VALF;
    row[22] = std::nanf("");
    row[23] = 0.0f;
    row[24] = std::numeric_limits<float>::denorm_min();
  }
  const Tensor want = x.cast(DType::bf16).cast(DType::f32), got = linear::cpu::rounded_to_bf16(x);
  for (std::int64_t i = 0; i < want.count(); ++i) {
    const float a = got.data<float>()[i], b = want.data<float>()[i];
    EXPECT_TRUE(a == b || (std::isnan(a) && std::isnan(b))) << i << ": " << a << " and " << b;
  }
}

// What x stands for where it meets weights in blocks, by the definition.
Tensor in_bytes(const Tensor& x) {
  const std::int64_t n = x.size(1), groups = n / quantized::group;
  const Tensor to = Tensor::uninitialized({x.size(0), n}, DType::f64);
  std::vector<std::int8_t> q(static_cast<std::size_t>(n));
  std::vector<float> steps(static_cast<std::size_t>(groups));
  for (std::int64_t r = 0; r < x.size(0); ++r) {
    linear::reference::round_row(x.data<float>() + r * x.stride(0), n, q.data(), steps.data());
    for (std::int64_t i = 0; i < n; ++i) {
      to.data<double>()[r * n + i] =
          static_cast<double>(steps[static_cast<std::size_t>(i / quantized::group)]) *
          q[static_cast<std::size_t>(i)];
    }
  }
  return to;
}

// With the instructions of this processor (one suite) and with those of every other (the other).
class LinearInBlocks : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam() && !before_) GTEST_SKIP() << "this processor has no AVX-512 VNNI";
    linear::cpu::vnni::set_available(GetParam());
  }
  void TearDown() override { linear::cpu::vnni::set_available(before_); }

 private:
  bool before_ = linear::cpu::vnni::available();
};

INSTANTIATE_TEST_SUITE_P(Vnni, LinearInBlocks, ::testing::Bool());

TEST_P(LinearInBlocks, AgreesWithTheReferenceOnWhatTheWeightsAndXStandFor) {
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 8, 9, 16, 17, 40, 259, 265}) {
    for (const std::int64_t in : {0, 64, 192, 1024, 8256}) {
      for (const auto type : {DType::q8, DType::q4}) {
        for (const std::int64_t out : {3, 70}) {
          if (rows * in > 100000) continue;  // the reference takes its time
          const Tensor x = strided(random_normal({rows, in}, DType::f32, 1));
          const Tensor w = random_normal({out, in}, DType::f32, 2).cast(type);
          const Tensor b = random_normal({out}, DType::f32, 3);
          const Tensor y = strided(poisoned({rows, out}, DType::f32));
          const Tensor want = forward64(in_bytes(x), w, b, y, Write::overwrite);
          linear::forward(x, w, b, y, Write::overwrite);
          EXPECT_TRUE(close(y, want, bound))
              << rows << "x" << in << "x" << out << " " << name_of(type);
        }
      }
    }
  }
}

// Integers are the same in every form; an output differs by how its groups are added up. So a
// sequence is read alike alone, among others and in a prefill.
TEST_P(LinearInBlocks, ARowGivesTheSameAloneAndAmongOthers) {
  for (const auto type : {DType::q8, DType::q4}) {
    const Tensor x = random_normal({40, 1024}, DType::f32, 1);
    const Tensor w = random_normal({70, 1024}, DType::f32, 2).cast(type);
    const Tensor all = poisoned({40, 70}, DType::f32);
    linear::forward(x, w, {}, all);
    for (const std::int64_t rows : {1, 3, 8, 16}) {
      const Tensor some = poisoned({rows, 70}, DType::f32);
      linear::forward(x.rows(8, 8 + rows), w, {}, some);
      EXPECT_TRUE(close(some, all.rows(8, 8 + rows), bound)) << rows << " " << name_of(type);
    }
  }
}

TEST_P(LinearInBlocks, WhatIsNotFiniteInXReachesItsOutputs) {
  for (const auto type : {DType::q8, DType::q4}) {
    const Tensor w = random_normal({3, 64}, DType::f32, 2).cast(type);
    for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
      const Tensor x = random_normal({2, 64}, DType::f32, 1);
      x.data<float>()[70] = static_cast<float>(bad);
      const Tensor y = Tensor::zeros({2, 3});
      linear::forward(x, w, {}, y);
      for (std::int64_t o = 0; o < 3; ++o) {
        EXPECT_TRUE(std::isfinite(y.data<float>()[o]));
        EXPECT_FALSE(std::isfinite(y.data<float>()[3 + o]));
      }
    }
  }
}

// The largest integers on both sides, which any sum that is too narrow would wrap or cut.
TEST_P(LinearInBlocks, TheLargestWeightsAndInputsDoNotOverflow) {
  for (const std::int64_t rows : {1, 4, 16}) {
    for (const auto type : {DType::q8, DType::q4}) {
      for (const float sign : {1.0f, -1.0f}) {
        const Tensor x = Tensor::uninitialized({rows, 128});
        const Tensor w = Tensor::uninitialized({2, 128});
        std::fill_n(x.data<float>(), x.count(), sign);
        std::fill_n(w.data<float>(), w.count(), -1.0f);
        const Tensor y = Tensor::zeros({rows, 2});
        linear::forward(x, w.cast(type), {}, y);
        for (std::int64_t i = 0; i < y.count(); ++i) {
          EXPECT_NEAR(y.data<float>()[i], -128 * sign, 128 * 1e-3) << name_of(type);
        }
      }
    }
  }
}

// Values half-way between bytes, of all sizes, and what has no byte.
TEST(Linear, RowsAreRoundedToTheBytesOfTheDefinition) {
  const Tensor x = strided(random_normal({8, 192}, DType::f32, 1));
  for (std::int64_t r = 0; r < 8; ++r) {
    float* row = x.data<float>() + r * x.stride(0);
    for (std::int64_t i = 0; i < 32; ++i) row[i] = static_cast<float>(i) - 15.5f;
    row[5] = 127;
    for (std::int64_t i = 32; i < 64; ++i)
      row[i] = r == 0 ? 0 : std::ldexp(row[i], -148 + 36 * static_cast<int>(r));
    if (r == 2) row[70] = std::nanf("");
    if (r == 3) row[99] = -HUGE_VALF;
    if (r == 4) row[128] = std::numeric_limits<float>::max();
  }
  const linear::cpu::RoundedRows rounded = linear::cpu::rounded(x);
  ASSERT_EQ(rounded.count, 8u);
  ASSERT_EQ(rounded.width, 192u);
  for (std::int64_t r = 0; r < 8; ++r) {
    std::int8_t q[192];
    float steps[6];
    linear::reference::round_row(x.data<float>() + r * x.stride(0), 192, q, steps);
    EXPECT_EQ(std::memcmp(q, rounded.bytes(static_cast<std::size_t>(r)), sizeof(q)), 0) << r;
    for (std::int64_t g = 0; g < 6; ++g) {
      const float step = rounded.steps(static_cast<std::size_t>(r))[g];
      EXPECT_TRUE(step == steps[g] || (std::isnan(step) && std::isnan(steps[g]))) << r << " " << g;
      EXPECT_EQ(std::isnan(step), (r == 2 && g == 2) || (r == 3 && g == 3)) << r << " " << g;
    }
  }
}

TEST(Linear, SeveralMapsOfOneInputGiveWhatEachGivesAloneOnAnyNumberOfThreads) {
  const int threads = thread_count();
  for (const std::int64_t rows : {1, 4, 16}) {
    const Tensor x = strided(random_normal({rows, 128}, DType::f32, 1));
    std::vector<linear::Map> maps;
    std::vector<Tensor> alone;
    for (const auto type : {DType::f32, DType::q8, DType::bf16, DType::q4}) {
      const std::int64_t out = 70 + 300 * static_cast<std::int64_t>(maps.size());
      const Tensor w = random_normal({out, 128}, DType::f32, 2);
      maps.push_back({type == DType::f32 ? w : w.cast(type), random_normal({out}, DType::f32, 3),
                      poisoned({rows, out}, DType::f32)});
      alone.push_back(poisoned({rows, out}, DType::f32));
      set_thread_count(1);
      linear::forward(x, maps.back().weight, maps.back().bias, alone.back());
    }
    for (const int team : {1, 3}) {
      set_thread_count(team);
      linear::forward(x, maps);
      for (std::size_t i = 0; i < maps.size(); ++i) EXPECT_TRUE(close(maps[i].y, alone[i], 0));
    }
  }
  set_thread_count(threads);
}

TEST(Linear, GradientsOfTheFastFormAgreeWithTheReference) {
  for (const auto& c : cases) {
    const Tensor x = strided(random_normal({c.rows, c.in}, DType::f32, 1));
    const Tensor w = random_normal({c.out, c.in}, DType::f32, 2);
    const Tensor dy = strided(random_normal({c.rows, c.out}, DType::f32, 3));
    const Tensor dx = strided(random_normal({c.rows, c.in}, DType::f32, 4));
    const Tensor dw = random_normal({c.out, c.in}, DType::f32, 5);
    const Tensor db = random_normal({c.out}, DType::f32, 6);
    const Tensor dx64 = dx.cast(DType::f64);
    const Tensor dw64 = dw.cast(DType::f64);
    const Tensor db64 = db.cast(DType::f64);
    linear::backward_input(dy, w, dx);
    linear::backward_weight(dy, x, dw, db);
    linear::backward_input(dy.cast(DType::f64), w.cast(DType::f64), dx64);
    linear::backward_weight(dy.cast(DType::f64), x.cast(DType::f64), dw64, db64);
    EXPECT_TRUE(close(dx, dx64, bound));
    EXPECT_TRUE(close(dw, dw64, bound));
    EXPECT_TRUE(close(db, db64, bound));
  }
}

TEST(Linear, GradientsMatchCentralDifferences) {
  const Tensor x = random_normal({3, 5}, DType::f64, 1);
  const Tensor w = random_normal({4, 5}, DType::f64, 2);
  const Tensor b = random_normal({4}, DType::f64, 3);
  const Tensor cotangent = random_normal({3, 4}, DType::f64, 4);
  const auto loss = [&] {
    const Tensor y = Tensor::uninitialized({3, 4}, DType::f64);
    linear::forward(x, w, b, y);
    return dot(y, cotangent);
  };
  const Tensor dx = Tensor::zeros(x.shape(), DType::f64);
  const Tensor dw = Tensor::zeros(w.shape(), DType::f64);
  const Tensor db = Tensor::zeros(b.shape(), DType::f64);
  linear::backward_input(cotangent, w, dx);
  linear::backward_weight(cotangent, x, dw, db);
  EXPECT_TRUE(gradient_matches(loss, x, dx, 1e-9));
  EXPECT_TRUE(gradient_matches(loss, w, dw, 1e-9));
  EXPECT_TRUE(gradient_matches(loss, b, db, 1e-9));
}

TEST(Linear, RefusesWhatDoesNotFitByNamingTheArgument) {
  const Tensor x = Tensor::zeros({2, 3});
  const Tensor w = Tensor::zeros({4, 5});
  try {
    linear::forward(x, w, {}, Tensor::zeros({2, 4}));
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "linear: x is f32 [2, 3]; wanted f32 [2, 5]");
  }
  EXPECT_THROW(linear::forward(x, Tensor::zeros({4, 3}, DType::i32), {}, Tensor::zeros({2, 4})),
               Error);
}

}  // namespace
}  // namespace metala
