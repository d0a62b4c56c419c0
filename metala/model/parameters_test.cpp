// Fresh weights have the deviations that their initialisation states; a device gets types it knows.
#include "metala/model/parameters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "metala/base/error.h"
#include "metala/harness/compare.h"
#include "metala/harness/random_tensor.h"

namespace metala {
namespace {

struct Moments {
  double deviation = 0, largest = 0;
};

Moments moments(const Tensor& t) {
  double sum = 0;
  Moments m;
  for (std::int64_t i = 0; i < t.count(); ++i) {
    const double x = t.data<float>()[i];
    sum += x * x;
    m.largest = std::max(m.largest, std::abs(x));
  }
  m.deviation = std::sqrt(sum / static_cast<double>(t.count()));
  return m;
}

TEST(Initialization, MatricesHaveTheStatedDeviation) {
  Config c;
  c.vocab_size = 512;
  c.width = 64;
  c.layers = 2;
  c.heads = 2;
  c.glu_width = 192;
  c.query_width = 32;
  struct Case {
    const char* name;
    double deviation;  // of out_proj, [64, 64]
  };
  for (const Case& wanted :
       {Case{"normal", 0.02}, Case{"small_init", 0.0790569}, Case{"wang_init", 0.125},
        Case{"scaled_normal", 0.01}, Case{"single_residual_scaled_normal", 0.0141421},
        Case{"xavier_normal", 0.125}, Case{"xavier_uniform", 0.125}}) {
    const InitMethod method = init_method_named(wanted.name);
    const auto p = Parameters::initialized(c, {InitMethod::normal, method}, 3).tensors();
    const auto at = [&](const char* name) { return moments(p.at(name)); };
    const double bound = 0.04;  // of the deviation: four of its own, from 4096 draws
    const Moments out = at("model.layers.1.token_mixer.out_proj.weight");
    EXPECT_NEAR(out.deviation / wanted.deviation, 1, bound) << wanted.name;
    EXPECT_NEAR(at("model.layers.0.token_mixer.v_proj.weight").deviation / 0.02, 1, bound);
    EXPECT_NEAR(at("model.embed_tokens.weight").deviation / 0.02, 1, bound);
    if (method == InitMethod::xavier_uniform) {
      EXPECT_LE(out.largest, std::sqrt(6.0 / 128));
    } else {
      EXPECT_GT(out.largest, 3 * wanted.deviation);
    }
    EXPECT_EQ(at("model.layers.0.token_mixer.g_proj.bias").largest, 0);
    EXPECT_LE(at("model.layers.0.token_mixer.conv1d.weight").largest, 0.5);
  }
  EXPECT_THROW(init_method_named("diagonal"), Error);
}

// The product of a matrix with its transpose, or the other way round for more rows than columns.
double farthest_from_identity(const Tensor& t, double squared_gain) {
  const bool by_rows = t.size(0) <= t.size(1);
  const std::int64_t count = by_rows ? t.size(0) : t.size(1);
  const std::int64_t length = by_rows ? t.size(1) : t.size(0);
  const auto at = [&](std::int64_t vector, std::int64_t k) -> double {
    return t.data<float>()[by_rows ? vector * length + k : k * count + vector];
  };
  double most = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t j = 0; j < count; ++j) {
      double sum = 0;
      for (std::int64_t k = 0; k < length; ++k) sum += at(i, k) * at(j, k);
      const double error = std::abs(sum / squared_gain - (i == j ? 1 : 0));
      most = error <= most ? most : error;  // a NaN stays
    }
  }
  return most;
}

TEST(Initialization, OrthogonalMatricesHaveOrthonormalRowsOrColumns) {
  Config c;
  c.vocab_size = 96;
  c.width = 48;
  c.layers = 3;
  c.heads = 2;
  c.glu_width = 80;
  c.query_width = 24;
  const auto draw = [&](std::uint64_t seed) {
    return Parameters::initialized(c, {InitMethod::orthogonal, InitMethod::scaled_orthogonal}, seed)
        .tensors();
  };
  const auto p = draw(3);
  for (const char* name : {"model.embed_tokens.weight", "model.layers.1.token_mixer.q_proj.weight",
                           "model.layers.1.token_mixer.v_proj.weight"}) {
    EXPECT_LE(farthest_from_identity(p.at(name), 2), 1e-6) << name;
  }
  for (const char* name :
       {"model.layers.2.token_mixer.out_proj.weight", "model.layers.2.channel_mixer.l3.weight"}) {
    EXPECT_LE(farthest_from_identity(p.at(name), 2 / 3.0), 1e-6) << name;
  }
  const auto entry = [&](std::uint64_t seed) {
    return draw(seed).at("model.embed_tokens.weight").data<float>()[5];
  };
  EXPECT_EQ(entry(3), entry(3));
  EXPECT_NE(entry(3), entry(4));
}

TEST(Parameters, MatricesInBlocksAreWidenedForADevice) {
  const Tensor matrix = harness::random_normal({6, 128}, DType::f32, 1);
  for (const DType type : {DType::q8, DType::q4}) {
    const Tensor blocks = matrix.cast(type);
    const Parameters p = Parameters({{"lm_head.weight", blocks}}).on({}, DType::bf16);
    EXPECT_TRUE(harness::same_bits(p.tensors().at("lm_head.weight"), blocks.cast(DType::bf16)));
  }
}

}  // namespace
}  // namespace metala
