#include "metala/quantization/calibrate.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "metala/base/error.h"
#include "metala/base/random.h"
#include "metala/eval/divergence.h"
#include "metala/model/checkpoint.h"
#include "metala/model/language_model.h"

namespace metala {
namespace {

Config small() {
  Config c;
  c.vocab_size = 48;
  c.width = 64;
  c.layers = 2;
  c.heads = 2;
  c.query_width = 64;
  c.glu_width = 128;
  return c;
}

struct Text {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> offsets = {0};
};

// A few words, in any order: what follows depends on what came before.
Text text(std::int64_t sequences, std::uint64_t seed) {
  const Philox random(seed, 0);
  Text t;
  std::uint64_t drawn = 0;
  for (std::int64_t s = 0; s < sequences; ++s) {
    for (int word = 0; word < 12; ++word) {
      const auto first = static_cast<std::int32_t>(random.block(drawn++)[0] % 6 * 8);
      for (std::int32_t i = 0; i < 4; ++i) t.ids.push_back(first + i * 2);
    }
    t.offsets.push_back(static_cast<std::int64_t>(t.ids.size()));
  }
  return t;
}

TEST(Calibrated, ModelsDivergeLessOnTextOfThatKind) {
  const Config config = small();
  const Parameters p = Parameters::initialized(config, initialization_named("small"), 3);
  const Text seen = text(40, 1), other = text(10, 2);
  const LanguageModel original(config, p);
  for (const DType type : {DType::q8, DType::q4}) {
    std::map<std::string, Tensor> plain;
    for (const auto& spec : expected_tensors(config)) {
      plain.emplace(spec.name, p.tensors().at(spec.name).cast(stored_type(spec, type)));
    }
    std::vector<std::int64_t> told;
    const auto rounded = calibrated(config, p.tensors(), type, seen.ids, seen.offsets,
                                    [&](std::int64_t layers) { told.push_back(layers); });
    EXPECT_EQ(told, (std::vector<std::int64_t>{1, 2}));
    ASSERT_EQ(rounded.size(), plain.size());
    for (const auto& [name, tensor] : plain) {
      EXPECT_EQ(rounded.at(name).dtype(), tensor.dtype()) << name;
      EXPECT_EQ(rounded.at(name).shape(), tensor.shape()) << name;
    }
    const auto kl = [&](const std::map<std::string, Tensor>& tensors) {
      return divergence(original, LanguageModel(config, Parameters(tensors)), other.ids,
                        other.offsets)
          .kl;
    };
    // In 8 bits most of what is lost lies in the embedding, which is rounded as before.
    EXPECT_LT(kl(rounded), (type == DType::q8 ? 0.85 : 0.6) * kl(plain)) << name_of(type);
  }
}

TEST(Calibrated, TextsAndTypesThatDoNotFitAreRefused) {
  const Config config = small();
  const auto tensors = Parameters::initialized(config, initialization_named("small"), 3).tensors();
  const std::vector<std::int32_t> ids = {1, 2, 48};
  const std::vector<std::int64_t> offsets = {0, 3}, none = {0};
  EXPECT_THROW(calibrated(config, tensors, DType::q4, ids, offsets), Error);
  EXPECT_THROW(calibrated(config, tensors, DType::q4, {}, none), Error);
  EXPECT_THROW(calibrated(config, tensors, DType::bf16, {ids.data(), 2}, {none}), Error);
}

}  // namespace
}  // namespace metala
