// Datasets on disk: what is written is read, byte for byte as GPT-NeoX has it, and lies are
// refused.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>

#include "metala/base/error.h"
#include "metala/data/dataset_info.h"
#include "metala/data/dataset_tools.h"
#include "metala/data/token_dataset.h"
#include "metala/data/token_writer.h"
#include "metala/harness/refusal.h"
#include "metala/harness/temporary_folder.h"
#include "metala/io/file.h"

namespace metala {
namespace {

using harness::refusal_of;
using harness::TemporaryFolder;
using Tokens = std::vector<std::int32_t>;

std::string hex(const std::string& digits) {
  std::string bytes;
  for (std::size_t i = 0; i < digits.size();) {
    if (digits[i] == ' ') {
      ++i;
      continue;
    }
    bytes.push_back(static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16)));
    i += 2;
  }
  return bytes;
}

// u16, sequences of 3 and 2 tokens, a document each.
const std::string golden_index = hex(
    "4d4d494449445800 00 0100000000000000 08 0200000000000000 0300000000000000 03000000 02000000 "
    "0000000000000000 0600000000000000 0000000000000000 0100000000000000 0200000000000000");

template <class T>
std::string raw(std::initializer_list<T> values) {
  std::string bytes;
  for (const T v : values) bytes.append(reinterpret_cast<const char*>(&v), sizeof v);
  return bytes;
}

void write(const std::string& prefix, TokenType type, const std::vector<Tokens>& documents) {
  TokenWriter writer(prefix, type);
  for (const auto& d : documents) writer.add(d);
  writer.finish();
}

std::vector<Tokens> all(const TokenDataset& set) {
  std::vector<Tokens> documents;
  for (std::int64_t d = 0; d < set.documents(); ++d) documents.push_back(set.read(d));
  return documents;
}

TEST(TokenDataset, TheWritersBytesAreTheFormatsExample) {
  const TemporaryFolder folder;
  write(folder / "d", TokenType::u16, {{1, 2, 3}, {4, 65535}});
  EXPECT_EQ(read_file(folder / "d.idx", 1000), golden_index);
  EXPECT_EQ(read_file(folder / "d.bin", 1000), hex("0100 0200 0300 0400 ffff"));
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    EXPECT_NE(entry.path().extension(), ".partial");
  }
}

TEST(TokenDataset, EveryTypeGivesBackItsTokens) {
  const TemporaryFolder folder;
  const std::vector<Tokens> documents = {{1, 2, 3}, {}, {127}, {5, 6, 7, 8, 9}};
  for (const auto type : {TokenType::u8, TokenType::i8, TokenType::i16, TokenType::u16,
                          TokenType::i32, TokenType::i64}) {
    const std::string prefix = folder / name_of(type);
    write(prefix, type, documents);
    const TokenDataset set = TokenDataset::open(prefix + ".idx");
    EXPECT_EQ(set.index().type(), type);
    EXPECT_EQ(set.tokens(), 9);
    EXPECT_EQ(all(set), documents);
    Tokens part(2);
    set.read(3, 2, part);
    EXPECT_EQ(part, (Tokens{7, 8}));
  }
  EXPECT_EQ(token_type_for(65499), TokenType::u16);
  EXPECT_EQ(token_type_for(65500), TokenType::i32);
}

TEST(TokenDataset, AnIdThatDoesNotFitIsRefusedNotWrapped) {
  const TemporaryFolder folder;
  TokenWriter writer(folder / "d", TokenType::u16);
  EXPECT_NE(refusal_of([&] { writer.add(Tokens{65536}); }).find("65536"), std::string::npos);
  EXPECT_NE(refusal_of([&] { writer.add(Tokens{-1}); }).find("-1"), std::string::npos);
}

TEST(TokenDataset, TheLegacyFormIsRead) {
  const TemporaryFolder folder;
  const std::string head = hex("544e544944580000") + raw<std::int64_t>({1, 4, 4, 2, 2, 3});
  folder.spill("d.idx", head + raw<std::int64_t>({0, 1, 2}) + raw<std::int64_t>({0, 3, 5}) +
                            raw<std::int64_t>({3, 2}) + raw<std::int64_t>({0, 1, 2}));
  folder.spill("d.bin", raw<std::int32_t>({1, 2, 3, 4, 70000}));
  const TokenDataset set = TokenDataset::open(folder / "d");
  EXPECT_EQ(all(set), (std::vector<Tokens>{{1, 2, 3}, {4, 70000}}));
  EXPECT_EQ(set.index().documents(), 2);

  folder.spill("e.bin", raw<std::int32_t>({1, 2, 3, 4, 5}));
  folder.spill("e.idx", head + raw<std::int64_t>({0, 2, 4}) + raw<std::int64_t>({0, 3, 5}) +
                            raw<std::int64_t>({3, 2}) + raw<std::int64_t>({0, 1, 2}));
  EXPECT_NE(refusal_of([&] { TokenDataset::open(folder / "e"); }).find("one dimension"),
            std::string::npos);
}

TEST(TokenDataset, EveryLieOfAnIndexIsRefusedByName) {
  const TemporaryFolder folder;
  const std::string bin = hex("0100 0200 0300 0400 ffff");
  const auto opened = [&](std::size_t at, const std::string& bytes) {
    std::string index = golden_index;
    index.replace(at, bytes.size(), bytes);
    folder.spill("d.idx", index);
    folder.spill("d.bin", bin);
    return refusal_of([&] { TokenDataset::open(folder / "d"); });
  };
  EXPECT_EQ(opened(0, "M"), "accepted");
  const auto names = [](const std::string& message, const char* words) {
    return message.find(words) != std::string::npos
               ? testing::AssertionSuccess()
               : testing::AssertionFailure() << message << " (wanted " << words << ")";
  };
  EXPECT_TRUE(names(opened(0, "X"), "MMIDIDX"));
  EXPECT_TRUE(names(opened(9, hex("02")), "version is 2"));
  EXPECT_TRUE(names(opened(17, hex("06")), "type code is 6"));
  EXPECT_TRUE(names(opened(17, hex("00")), "type code is 0"));
  EXPECT_TRUE(names(opened(18, hex("03")), "3 sequences"));
  EXPECT_TRUE(names(opened(18, hex("ffffffffffffffff")), "claims 18446744073709551615 sequences"));
  EXPECT_TRUE(names(opened(26, hex("00")), "0 document borders"));
  EXPECT_TRUE(names(opened(34, hex("ffffffff")), "length of sequence 0 is -1"));
  EXPECT_TRUE(names(opened(34, hex("04")), "sequence 1 starts at byte 6; wanted 8"));
  EXPECT_TRUE(names(opened(38, hex("03")), "take 12 bytes, the .bin has 10"));
  EXPECT_TRUE(names(opened(42, hex("02")), "sequence 0 starts at byte 2"));
  EXPECT_TRUE(names(opened(50, hex("ffffffffffffffff")), "sequence 1 starts at byte -1"));
  EXPECT_TRUE(names(opened(58, hex("01")), "document border 0 is 1"));
  EXPECT_TRUE(names(opened(66, hex("03")), "document border 1 is 3"));
  EXPECT_TRUE(names(opened(74, hex("01")), "the last document border is 1"));

  folder.spill("d.idx", golden_index.substr(0, 81));
  EXPECT_TRUE(names(refusal_of([&] { TokenDataset::open(folder / "d"); }), "there are 47"));
  folder.spill("d.idx", golden_index);
  folder.spill("d.bin", bin.substr(0, 9));
  EXPECT_TRUE(names(refusal_of([&] { TokenDataset::open(folder / "d"); }), "cut short"));
  std::filesystem::remove(folder / "d.bin");
  EXPECT_TRUE(names(refusal_of([&] { TokenDataset::open(folder / "d"); }), "d.bin: cannot open"));
  EXPECT_TRUE(
      names(refusal_of([&] { TokenDataset::open(folder / "none"); }), "metala data prepare"));
}

TEST(TokenDataset, ANumberThatIsNoTokenIsRefusedWhenItIsRead) {
  const TemporaryFolder folder;
  folder.spill("d.idx", hex("4d4d494449445800 00 0100000000000000 04 0100000000000000 "
                            "0200000000000000 02000000 0000000000000000 0000000000000000 "
                            "0100000000000000"));
  folder.spill("d.bin", raw<std::int32_t>({5, -100}));
  const TokenDataset set = TokenDataset::open(folder / "d");
  EXPECT_NE(refusal_of([&] { set.read(0); }).find("document 0"), std::string::npos);
}

TEST(TokenWriter, AWriterThatGoesOnLeavesTheSameFiles) {
  const TemporaryFolder folder;
  write(folder / "whole", TokenType::u16, {{1, 2}, {3}, {4, 5}});
  TokenPosition at;
  {
    TokenWriter writer(folder / "parts", TokenType::u16);
    writer.add(Tokens{1, 2});
    at = writer.sync();
    writer.add(Tokens{9, 9, 9, 9});  // lost: the process was killed
  }
  TokenWriter writer(folder / "parts", TokenType::u16, at);
  writer.add(Tokens{3});
  writer.add(Tokens{4, 5});
  writer.finish();
  for (const char* suffix : {".bin", ".idx"}) {
    EXPECT_EQ(read_file(folder / "parts" + suffix, 1000),
              read_file(folder / "whole" + suffix, 1000));
  }
  EXPECT_THROW(TokenWriter(folder / "none", TokenType::u16, {1, 2}), Error);
}

TEST(TokenWriter, AFinishThatWasCutShortCanBeRepeated) {
  const TemporaryFolder folder;
  TokenPosition at;
  const std::string prefix = folder / "d";
  {
    TokenWriter writer(prefix, TokenType::u16);
    writer.add(Tokens{1, 2});
    writer.add(Tokens{3});
    at = writer.sync();
    std::filesystem::copy_file(prefix + ".lengths.partial", folder / "lengths");
    writer.finish();
  }
  const std::string bin = read_file(prefix + ".bin", 1000), idx = read_file(prefix + ".idx", 1000);
  // The process died when the tokens had their name and the index did not.
  std::filesystem::rename(prefix + ".idx", prefix + ".idx.partial");
  std::filesystem::rename(folder / "lengths", prefix + ".lengths.partial");
  TokenWriter(prefix, TokenType::u16, at).finish();
  EXPECT_EQ(read_file(prefix + ".bin", 1000), bin);
  EXPECT_EQ(read_file(prefix + ".idx", 1000), idx);
}

// Labels that say to learn every second token.
void write_with_labels(const std::string& prefix, const std::vector<Tokens>& documents) {
  write(prefix, TokenType::u16, documents);
  std::vector<Tokens> labels = documents;
  for (auto& document : labels) {
    for (std::size_t i = 0; i < document.size(); i += 2) document[i] = -100;
  }
  write(labels_prefix(prefix), TokenType::i32, labels);
  DatasetInfo info;
  info.documents = static_cast<std::int64_t>(documents.size());
  info.vocabulary = 100;
  info.labels = true;
  write_dataset_info(prefix, info);
}

TEST(DatasetTools, LabelsGoAlong) {
  const TemporaryFolder folder;
  write_with_labels(folder / "a", {{1}, {2, 2}, {3, 3, 3}});
  write_with_labels(folder / "b", {{4, 4, 4, 4}});
  write(folder / "c", TokenType::u16, {{5}});
  merge_datasets({folder / "a", folder / "b"}, folder / "both");
  const TokenDataset both = TokenDataset::open(folder / "both");
  const auto labels = labels_of(both);
  ASSERT_TRUE(labels.has_value());
  EXPECT_EQ(dataset_statistics(both, -1, &*labels).labelled, 4);
  split_dataset(folder / "both", "1,1", folder / "part");
  Tokens own(4);
  labels_of(TokenDataset::open(folder / "part_valid"))->read_labels(1, 0, own);
  EXPECT_EQ(own, (Tokens{-100, 4, -100, 4}));
  EXPECT_FALSE(labels_of(TokenDataset::open(folder / "c")).has_value());
  EXPECT_EQ(dataset_statistics(TokenDataset::open(folder / "c"), -1).labelled, 1);
  EXPECT_THROW(merge_datasets({folder / "a", folder / "c"}, folder / "mixed"), Error);
  EXPECT_FALSE(std::filesystem::exists(folder / "mixed.idx"));
}

TEST(DatasetTools, MergedAndSplitDatasetsHoldTheSameDocuments) {
  const TemporaryFolder folder;
  write(folder / "a", TokenType::u16, {{1}, {2, 2}, {3, 3, 3}});
  write(folder / "b", TokenType::i32, {{70000}, {5}});
  merge_datasets({folder / "a", folder / "b"}, folder / "both");
  const TokenDataset both = TokenDataset::open(folder / "both");
  EXPECT_EQ(both.index().type(), TokenType::i32);
  EXPECT_EQ(all(both), (std::vector<Tokens>{{1}, {2, 2}, {3, 3, 3}, {70000}, {5}}));
  EXPECT_EQ(split_dataset(folder / "both", "3,1,1", folder / "part"),
            (std::array<std::int64_t, 3>{3, 1, 1}));
  EXPECT_EQ(all(TokenDataset::open(folder / "part_train")),
            (std::vector<Tokens>{{1}, {2, 2}, {3, 3, 3}}));
  EXPECT_EQ(all(TokenDataset::open(folder / "part_test")), (std::vector<Tokens>{{5}}));
  EXPECT_THROW(merge_datasets({folder / "a"}, folder / "both"), Error);  // is there already

  // What a dataset left that is no longer there says nothing of the new one.
  write_dataset_info(folder / "old", {3, 6, 20, 300, 2, "bytes"});
  std::filesystem::create_directories(tokenizer_folder(folder / "old"));
  merge_datasets({folder / "a", folder / "b"}, folder / "old");
  EXPECT_FALSE(read_dataset_info(folder / "old").has_value());
  EXPECT_FALSE(std::filesystem::exists(tokenizer_folder(folder / "old")));

  write_dataset_info(folder / "a", {3, 6, 20, 300, 2, "bytes"});
  write_dataset_info(folder / "b", {2, 2, 9, 70001, 0, "SentencePiece"});
  EXPECT_NE(refusal_of([&] {
              merge_datasets({folder / "a", folder / "b"}, folder / "c");
            }).find("one tokenizer"),
            std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder / "c.bin.partial"));
}

TEST(DatasetTools, ASplitThatFailsHalfWayLeavesNothing) {
  const TemporaryFolder folder;
  write(folder / "a", TokenType::u16, {{1}, {2, 2}, {3, 3, 3}});
  write_dataset_info(folder / "a", {3, 6, 20, 300, 2, "bytes"});
  std::filesystem::create_directories(folder / "part_test.json/in/the/way");
  EXPECT_NE(refusal_of([&] {
              split_dataset(folder / "a", "1,1,1", folder / "part");
            }).find("part_test.json"),
            std::string::npos);
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    const std::string name = entry.path().filename();
    EXPECT_TRUE(name.starts_with("a.") || name == "part_test.json") << name;
  }
  std::filesystem::remove_all(folder / "part_test.json");
  split_dataset(folder / "a", "1,1,1", folder / "part");
  EXPECT_EQ(read_dataset_info(folder / "part_valid")->text_bytes, 6u);  // two of six tokens
}

TEST(DatasetTools, DocumentsOfSeveralSequencesKeepTheirBorders) {
  const TemporaryFolder folder;
  {
    TokenWriter writer(folder / "a", TokenType::u16);
    writer.add(Tokens{1}, false);
    writer.add(Tokens{2});
    writer.add(Tokens{3});
    writer.finish();
  }
  merge_datasets({folder / "a", folder / "a"}, folder / "twice");
  const TokenDataset twice = TokenDataset::open(folder / "twice");
  const TokenIndex& index = twice.index();
  ASSERT_EQ(index.documents(), 4);
  for (std::int64_t d = 0; d < 5; ++d) {
    EXPECT_EQ(index.first_sequence(d), (std::vector<std::int64_t>{0, 2, 3, 5, 6})[d]);
  }
}

TEST(DatasetTools, StatisticsAreThoseOfTheTokens) {
  const TemporaryFolder folder;
  write(folder / "a", TokenType::u16, {{7, 2}, {}, {300, 1, 1, 2}, {4}, {5, 2}});
  const auto s = dataset_statistics(TokenDataset::open(folder / "a"), 2);
  EXPECT_EQ(s.documents, 5);
  EXPECT_EQ(s.tokens, 9);
  EXPECT_EQ(s.empty, 1);
  EXPECT_EQ(s.shortest, 0);
  EXPECT_EQ(s.median, 2);
  EXPECT_EQ(s.longest, 4);
  EXPECT_EQ(s.largest_id, 300);
  EXPECT_EQ(s.ending_in_end_id, 3);
}

TEST(DatasetInfo, WhatIsWrittenIsReadAndDamageIsNamed) {
  const TemporaryFolder folder;
  EXPECT_FALSE(read_dataset_info(folder / "d").has_value());
  write_dataset_info(folder / "d", {3, 60, 200, 300, 2, "bytes"});
  const auto info = read_dataset_info(folder / "d");
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->tokens, 60);
  EXPECT_EQ(info->end_id, 2);
  EXPECT_EQ(info->tokenizer, "bytes");
  folder.spill("d.json", R"({"documents": 3, "tokens": "many"})");
  EXPECT_NE(refusal_of([&] { read_dataset_info(folder / "d"); }).find("tokens is \"many\""),
            std::string::npos);
}

}  // namespace
}  // namespace metala
