#include "metala/io/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "metala/harness/compare.h"
#include "metala/harness/random_tensor.h"
#include "metala/harness/refusal.h"
#include "metala/harness/temporary_folder.h"

namespace metala {
namespace {

using namespace harness;

std::string file_with(const std::string& header, const std::string& data) {
  const std::uint64_t n = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &n, 8);
  return bytes + header + data;
}

const std::string good_header = R"({"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})";

TEST(Safetensors, WritingMatchesTheFormatsOwnExampleByteForByte) {
  const TemporaryFolder folder;
  const std::string path = folder / "w.safetensors";
  write_safetensors(path, {{"w", filled({2, 2}, DType::f32, 1)}}, {});
  const std::string bytes = read_file(path, 1000);
  ASSERT_EQ(bytes.size(), 88u);
  EXPECT_EQ(bytes.substr(0, 8), std::string("\x40\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(bytes.substr(8, good_header.size()), good_header);
  EXPECT_EQ(bytes.substr(8 + good_header.size(), 7), "       ");
}

TEST(Safetensors, ANameFromTheFileKeepsItsErrorOnOneLine) {
  const TemporaryFolder folder;
  folder.spill("w.safetensors",
               file_with(R"({"a\n\u001b[2Jb":{"dtype":"F\n9","shape":[4],"data_offsets":[0,16]}})",
                         std::string(16, '\0')));
  EXPECT_EQ(harness::refusal_of([&] { SafetensorsFile::open(folder / "w.safetensors"); }),
            folder / "w.safetensors" + ": a??[2Jb: unknown dtype \"F?9\"");
}

TEST(Safetensors, WhatIsWrittenIsReadBackBitForBitForEveryTypeAndShape) {
  const TemporaryFolder folder;
  const std::string path = folder / "all.safetensors";
  std::map<std::string, Tensor> tensors;
  int seed = 0;
  for (const auto type : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    const auto name = std::string(name_of(type));
    tensors.emplace(name + ".matrix",
                    random_normal({3, 5}, type, static_cast<std::uint64_t>(++seed)));
    tensors.emplace(name + ".empty", Tensor::zeros({0, 4}, type));
    tensors.emplace(name + ".odd",
                    random_normal({1, 1, 3, 1}, type, static_cast<std::uint64_t>(++seed)));
  }
  tensors.emplace("strided", random_normal({4, 9}, DType::f32, 77).slice(1, 2, 5));
  tensors.emplace("scalar", filled({}, DType::f32, 3));
  tensors.emplace("counts", Tensor::zeros({2}, DType::i64));
  write_safetensors(path, tensors, {{"format", "pt"}, {"note", "\"quoted\" \n"}});
  const auto file = SafetensorsFile::open(path);
  EXPECT_EQ(file.tensors().size(), tensors.size());
  EXPECT_EQ(file.metadata().at("note"), "\"quoted\" \n");
  for (const auto& [name, tensor] : tensors) {
    EXPECT_TRUE(same_bits(file.tensor(name), tensor)) << name;
  }
}

TEST(Safetensors, ATensorThatTheFileDoesNotAlignIsCopied) {
  const TemporaryFolder folder;
  const std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})";
  folder.spill("odd.safetensors", file_with(header, std::string("\x07\0\0\x80\x3f", 5)));
  const auto file = SafetensorsFile::open(folder / "odd.safetensors");
  EXPECT_EQ(file.tensor("b").data<float>()[0], 1.0f);
}

struct Bad {
  const char* what;
  std::string bytes;
  const char* words;  // that the message must hold
};

TEST(Safetensors, EveryMalformedFileIsRefusedInOneLineThatNamesIt) {
  const std::string data(16, '\0');
  const auto with = [&](const std::string& header) { return file_with(header, data); };
  const auto entry = [&](const std::string& fields) { return with("{\"w\":{" + fields + "}}"); };
  std::string huge = file_with(good_header, data);
  huge[7] = '\x7f';
  const Bad all[] = {
      {"empty", "", "too few"},
      {"header of 0", std::string(8, '\0'), "claims 0 bytes"},
      {"header beyond the file", huge, "header claims"},
      {"truncated data", file_with(good_header, data.substr(0, 12)), "truncated"},
      {"trailing bytes", file_with(good_header, data + "x"), "1 bytes after the last tensor"},
      {"not JSON", with("{nonsense}"), "not valid JSON"},
      {"not an object", with("[1]"), "does not start with"},
      {"duplicate name",
       with(
           R"({"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})"),
       "given twice"},
      {"unknown dtype", entry(R"("dtype":"Q9","shape":[2,2],"data_offsets":[0,16])"), "\"Q9\""},
      {"end before begin", entry(R"("dtype":"F32","shape":[2,2],"data_offsets":[16,0])"),
       "backwards"},
      {"wrong byte count", entry(R"("dtype":"F32","shape":[2,3],"data_offsets":[0,16])"),
       "its shape needs 24"},
      {"negative size", entry(R"("dtype":"F32","shape":[-2,2],"data_offsets":[0,16])"), "size"},
      {"overflowing shape",
       entry(R"("dtype":"F32","shape":[4294967296,4294967296,16],"data_offsets":[0,16])"),
       "64 bits"},
      {"hole", with(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})"), "unused bytes"},
      {"overlap",
       with(
           R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[3],"data_offsets":[4,16]}})"),
       "overlaps"},
      {"missing field", entry(R"("dtype":"F32","shape":[2,2])"), "data_offsets"},
      {"metadata that is no string", with(R"({"__metadata__":{"a":1}})"), "not a string"},
      {"deep nesting", with("{\"w\":" + std::string(1000, '[') + std::string(1000, ']') + "}"),
       "nested deeper"},
  };
  const TemporaryFolder folder;
  for (const auto& bad : all) {
    folder.spill("bad.safetensors", bad.bytes);
    try {
      SafetensorsFile::open(folder / "bad.safetensors");
      ADD_FAILURE() << "accepted: " << bad.what;
    } catch (const Error& e) {
      const std::string message = e.what();
      EXPECT_NE(message.find(bad.words), std::string::npos) << bad.what << ": " << message;
      EXPECT_NE(message.find("bad.safetensors"), std::string::npos) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
  }
}

TEST(Safetensors, AKnownTypeThatCannotBeReadIsListedAndRefusedByName) {
  const TemporaryFolder folder;
  folder.spill("f8.safetensors",
               file_with(R"({"w":{"dtype":"F8_E4M3","shape":[16],"data_offsets":[0,16]}})",
                         std::string(16, '\0')));
  const auto file = SafetensorsFile::open(folder / "f8.safetensors");
  EXPECT_TRUE(file.contains("w"));
  EXPECT_THROW(file.tensor("w"), Error);
  EXPECT_THROW(file.tensor("absent"), Error);
}

TEST(File, AWriteThatFailsLeavesTheOldFileAndNothingElse) {
  const TemporaryFolder folder;
  folder.spill("kept", "old");
  EXPECT_THROW(write_file_atomically(folder / "kept",
                                     [](std::ostream& out) {
                                       out << "half";
                                       fail("stopped");
                                     }),
               Error);
  EXPECT_EQ(read_file(folder / "kept", 10), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
  EXPECT_THROW(write_file_atomically(folder / "no/such/folder/file", "x"), Error);
}

TEST(File, ALinkIsWrittenThroughAndStaysOne) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "kept");
  folder.spill("kept/file", "old");
  std::filesystem::create_symlink("kept/file", folder / "near");
  std::filesystem::create_symlink(folder / "near", folder / "far");
  write_file_atomically(folder / "far", "new");
  EXPECT_EQ(std::filesystem::read_symlink(folder / "far"), folder / "near");
  EXPECT_EQ(std::filesystem::read_symlink(folder / "near"), "kept/file");
  EXPECT_EQ(read_file(folder / "kept/file", 10), "new");

  std::filesystem::create_symlink("kept/fresh", folder / "dangling");
  write_file_atomically(folder / "dangling", "first");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "dangling"));
  EXPECT_EQ(read_file(folder / "kept/fresh", 10), "first");

  std::filesystem::create_symlink("circle", folder / "circle");
  EXPECT_THROW(write_file_atomically(folder / "circle", "x"), Error);
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "circle"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / "kept"), {}), 2);
}

TEST(File, AFullDiskIsAnErrorAndLeavesNothing) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  std::ofstream full("/dev/full");
  full << std::string(1 << 20, 'x') << std::flush;
  EXPECT_FALSE(full.good());  // what write_file_atomically looks at
  EXPECT_THROW(read_file("/dev/full", 10), Error);
}

}  // namespace
}  // namespace metala
