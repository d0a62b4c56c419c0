#include "metala/io/tensor_files.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "metala/base/error.h"
#include "metala/base/random.h"
#include "metala/harness/compare.h"
#include "metala/harness/random_tensor.h"
#include "metala/harness/temporary_folder.h"
#include "metala/io/safetensors.h"

namespace metala {
namespace {

using namespace harness;

TEST(TensorFiles, ShardsAreReadThroughTheirIndexAndItsLiesAreRefused) {
  const TemporaryFolder folder;
  std::map<std::string, Tensor> tensors;
  for (const char* name : {"a", "b", "c"}) {
    tensors.emplace(name, random_normal({4, 4}, DType::f32, hash_name(name)));
  }
  write_tensor_files(folder.path(), tensors, 100);  // 64 bytes each: three shards
  EXPECT_TRUE(std::filesystem::exists(folder / "model-00003-of-00003.safetensors"));
  const auto files = TensorFiles::open(folder.path());
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(same_bits(files.tensor(name), tensor));

  const auto refuse = [&](const std::string& index, const char* words) {
    folder.spill("model.safetensors.index.json", index);
    try {
      TensorFiles::open(folder.path());
      ADD_FAILURE() << "accepted: " << index;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
    }
  };
  refuse(R"({"weight_map":{"a":"../model-00001-of-00003.safetensors"}})", "same folder");
  refuse(R"({"weight_map":{"a":"/etc/passwd"}})", "same folder");
  refuse(R"({"weight_map":{"z":"model-00001-of-00003.safetensors"}})", "is not in");
  refuse(R"({"weight_map":{"a":"absent.safetensors"}})", "cannot open");
  refuse(R"({"weight_map":[]})", "weight_map");
  refuse(R"({"weight_map":{"a":7}})", "weight_map a is not a file name");
  write_safetensors(folder / "two.safetensors", {{"a", tensors["a"]}, {"b", tensors["b"]}}, {});
  refuse(R"({"weight_map":{"a":"two.safetensors"}})",
         "b is in two.safetensors but not in the index");
  EXPECT_THROW(files.tensor("absent"), Error);
}

TEST(TensorFiles, SafetensorsComeBeforeTorchFilesAndWholeFilesBeforeShards) {
  const TemporaryFolder folder;
  const std::string foreign = METALA_SOURCE_DIR "/tests/foreign/";
  const auto file_used = [&] {
    const auto files = TensorFiles::open(folder.path());
    return std::filesystem::path(files.path_of("lm_head.weight")).filename().string();
  };
  EXPECT_THROW(file_used(), Error);
  for (const auto& [from, used] : std::vector<std::pair<std::string, std::string>>{
           {"torch_sharded", "pytorch_model-00001-of-00002.bin"},
           {"torch_zip", "pytorch_model.bin"},
           {"safetensors_sharded", "model-00001-of-00002.safetensors"},
           {"safetensors", "model.safetensors"}}) {
    std::filesystem::copy(foreign + from, folder.path(),
                          std::filesystem::copy_options::recursive |
                              std::filesystem::copy_options::overwrite_existing);
    EXPECT_EQ(file_used(), used);
  }
}

}  // namespace
}  // namespace metala
