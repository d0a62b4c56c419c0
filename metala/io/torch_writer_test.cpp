#include "metala/io/torch_writer.h"

#include <gtest/gtest.h>

#include "metala/base/error.h"
#include "metala/harness/compare.h"
#include "metala/harness/random_tensor.h"
#include "metala/harness/temporary_folder.h"
#include "metala/io/tensor_files.h"
#include "metala/io/torch_file.h"
#include "metala/io/zip_writer.h"

namespace metala {
namespace {

using namespace harness;

TEST(TorchWriter, WhatIsWrittenIsReadBackBitForBitForEveryTypeAndShape) {
  const TemporaryFolder folder;
  std::map<std::string, Tensor> tensors;
  for (const auto type : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    tensors.emplace(std::string(name_of(type)), random_normal({3, 5}, type, 1));
  }
  tensors.emplace("odd", random_normal({1, 1, 3, 1}, DType::bf16, 2));
  tensors.emplace("empty", Tensor::zeros({0, 4}));
  tensors.emplace("strided", random_normal({4, 9}, DType::f32, 3).slice(1, 2, 5));
  tensors.emplace("scalar", filled({}, DType::f32, 3));
  for (const auto type : {DType::i32, DType::i64, DType::u8}) {
    tensors.emplace(std::string(name_of(type)), Tensor::zeros({2}, type));
  }
  write_torch(folder / "all.bin", tensors);
  const auto file = TorchFile::open(folder / "all.bin");
  EXPECT_EQ(file.names().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_TRUE(same_bits(file.tensor(name), tensor)) << name;
    const auto address = reinterpret_cast<std::uintptr_t>(file.tensor(name).raw());
    EXPECT_EQ(tensor.count() > 0 ? address % ZipWriter::alignment : 0, 0u) << name;
  }
}

TEST(TorchWriter, NamesOfTheSameMemoryShareAStorage) {
  const TemporaryFolder folder;
  const Tensor t = random_normal({3, 5}, DType::f32, 1);
  write_torch(folder / "tied.bin", {{"a", t}, {"b", t}, {"part", t.rows(0, 2)}});
  const auto file = TorchFile::open(folder / "tied.bin");
  EXPECT_EQ(file.tensor("a").raw(), file.tensor("b").raw());
  EXPECT_TRUE(same_bits(file.tensor("part"), t.rows(0, 2)));
}

TEST(TorchWriter, TensorsInBlocksAreRefused) {
  const TemporaryFolder folder;
  EXPECT_THROW(write_torch(folder / "q8.bin", {{"w", Tensor::zeros({1, 64}).cast(DType::q8)}}),
               Error);
}

TEST(TensorFiles, TorchShardsAreWrittenWithAnIndex) {
  const TemporaryFolder folder;
  std::map<std::string, Tensor> tensors;
  for (const char* name : {"a", "b", "c"}) {
    tensors.emplace(name, random_normal({4, 4}, DType::f32, 5));
  }
  write_tensor_files(folder.path(), tensors, 100, TensorFormat::torch);
  const auto files = TensorFiles::open(folder.path());
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(same_bits(files.tensor(name), tensor));
  EXPECT_TRUE(files.path_of("c").ends_with("/pytorch_model-00003-of-00003.bin"));
}

}  // namespace
}  // namespace metala
