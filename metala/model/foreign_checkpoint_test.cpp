// One model in every container, written by PyTorch itself (tools/foreign_checkpoints.py).
#include <gtest/gtest.h>

#include <string>

#include "metala/harness/compare.h"
#include "metala/io/tensor_files.h"
#include "metala/model/checkpoint.h"
#include "metala/model/language_model.h"
#include "metala/model/neox.h"

namespace metala {
namespace {

using namespace harness;

const std::string foreign = METALA_SOURCE_DIR "/tests/foreign/";

Tensor logits_of(const Checkpoint& checkpoint) {
  const LanguageModel model(checkpoint.config, Parameters(checkpoint.tensors));
  const std::vector<std::int32_t> ids = {5, 0, 63, 17, 17, 2, 41};
  const std::vector<std::int64_t> offsets = {0, 7};
  Arena arena;
  State state(model.config(), 1, model.dtype());
  model.advance(arena, {ids, offsets}, state);
  return state.logits().copy();
}

class ForeignCheckpoint : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Folders, ForeignCheckpoint,
                         testing::Values("safetensors_sharded", "torch_zip", "torch_legacy",
                                         "torch_sharded"));

TEST_P(ForeignCheckpoint, HoldsTheSameBitsAndPredictsTheSameAsTheSafetensors) {
  const Checkpoint expected = load_checkpoint(foreign + "safetensors");
  const Checkpoint loaded = load_checkpoint(foreign + GetParam());
  ASSERT_EQ(loaded.tensors.size(), expected.tensors.size());
  for (const auto& [name, tensor] : expected.tensors) {
    EXPECT_TRUE(same_bits(loaded.tensors.at(name), tensor)) << name;
  }
  EXPECT_TRUE(same_bits(logits_of(loaded), logits_of(expected)));
  EXPECT_TRUE(loaded.notes.empty());
  EXPECT_EQ(fingerprint(loaded.config, loaded.tensors),
            fingerprint(expected.config, expected.tensors));
}

class NeoxFolder : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Folders, NeoxFolder, testing::Values("neox", "neox_tp2", "neox_module"));

TEST_P(NeoxFolder, HoldsTheSameBitsAndPredictsTheSameAsTheSafetensors) {
  const Checkpoint expected = load_checkpoint(foreign + "safetensors");
  EXPECT_TRUE(is_neox_folder(foreign + GetParam()));
  const Checkpoint loaded = load_neox(foreign + GetParam());
  ASSERT_EQ(loaded.tensors.size(), expected.tensors.size());
  for (const auto& [name, tensor] : expected.tensors) {
    EXPECT_TRUE(same_bits(loaded.tensors.at(name), tensor)) << name;
  }
  EXPECT_EQ(config_json(loaded.config, ""), config_json(expected.config, ""));
  EXPECT_TRUE(same_bits(logits_of(loaded), logits_of(expected)));
}

}  // namespace
}  // namespace metala
