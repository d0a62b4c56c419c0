// Preparing text: the same bytes whatever the threads and interruptions, and a true report.
#include "metala/data/prepare.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "metala/base/error.h"
#include "metala/data/dataset_info.h"
#include "metala/data/token_dataset.h"
#include "metala/harness/refusal.h"
#include "metala/harness/temporary_folder.h"
#include "metala/io/file.h"

namespace metala {
namespace {

using harness::TemporaryFolder;

std::string corpus(int documents) {
  std::string text;
  for (int i = 0; i < documents; ++i) {
    text += "{\"text\": \"document " + std::to_string(i) + std::string(i % 97, 'x') + "\"}\n";
  }
  return text;
}

PrepareOptions options(const TemporaryFolder& folder, const std::string& prefix) {
  PrepareOptions o;
  o.inputs = {folder / "in.jsonl"};
  o.prefix = folder / prefix;
  o.threads = 2;
  return o;
}

std::string bytes(const std::string& path) {
  return read_file(path, std::size_t{1} << 30);
}

std::string refusal(const PrepareOptions& o) {
  return harness::refusal_of([&] { prepare(o); });
}

TEST(Prepare, DocumentsAreTokenisedInOrderWithAnEndAfterEach) {
  const TemporaryFolder folder;
  folder.spill("in.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"\"}\n{\"text\": \"c\"}\n");
  const PrepareReport report = prepare(options(folder, "out"));
  EXPECT_TRUE(report.finished);
  EXPECT_EQ(report.documents, 2);
  EXPECT_EQ(report.tokens, 5);
  EXPECT_EQ(report.empty, 1);
  EXPECT_EQ(report.text_bytes, 3u);
  const TokenDataset set = TokenDataset::open(folder / "out");
  EXPECT_EQ(set.index().type(), TokenType::u16);
  EXPECT_EQ(set.read(0), (std::vector<std::int32_t>{3 + 'a', 3 + 'b', 2}));
  EXPECT_EQ(set.read(1), (std::vector<std::int32_t>{3 + 'c', 2}));
  const auto info = read_dataset_info(folder / "out");
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->end_id, 2);
  EXPECT_EQ(info->vocabulary, 259);
  EXPECT_EQ(open_tokenizer(tokenizer_folder(folder / "out"))->size(), 259);
}

// Bytes spelled as tokenizer.json does, which goes before what the byte tokenizer writes.
std::string tokenizer_of_one_letter() {
  return R"({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "</s>": 1}, "merges": []},
             "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
             "decoder": {"type": "ByteLevel"}})";
}

TEST(Prepare, AnOverwrittenDatasetHasItsOwnTokenizerBeforeAndAfter) {
  const TemporaryFolder folder;
  folder.spill("in.jsonl", "{\"text\": \"a\"}\n");
  std::filesystem::create_directories(folder / "one");
  folder.spill("one/tokenizer.json", tokenizer_of_one_letter());
  PrepareOptions o = options(folder, "out");
  o.append_end = false;
  o.tokenizer.name = folder / "one";
  ASSERT_TRUE(prepare(o).finished);
  const auto size = [&] { return open_tokenizer(tokenizer_folder(o.prefix))->size(); };
  EXPECT_EQ(size(), 2);

  PrepareOptions other = options(folder, "out");
  other.overwrite = true;
  folder.spill("in.jsonl", "{\"text\": \"a\"}\nno JSON\n");
  EXPECT_NE(refusal(other), "accepted");
  EXPECT_EQ(size(), 2);
  EXPECT_EQ(TokenDataset::open(o.prefix).read(0), (std::vector<std::int32_t>{0}));

  folder.spill("in.jsonl", "{\"text\": \"a\"}\n");
  ASSERT_TRUE(prepare(other).finished);
  EXPECT_EQ(size(), 259);
  EXPECT_EQ(TokenDataset::open(o.prefix).read(0), (std::vector<std::int32_t>{3 + 'a', 2}));
  EXPECT_FALSE(std::filesystem::exists(tokenizer_folder(o.prefix) + ".partial"));
}

TEST(Prepare, TheFilesDoNotDependOnTheThreads) {
  const TemporaryFolder folder;
  folder.spill("in.jsonl", corpus(40000));
  for (const int threads : {1, 3}) {
    PrepareOptions o = options(folder, std::to_string(threads));
    o.threads = threads;
    prepare(o);
  }
  EXPECT_TRUE(bytes(folder / "1.bin") == bytes(folder / "3.bin"));
  EXPECT_TRUE(bytes(folder / "1.idx") == bytes(folder / "3.idx"));
}

// By blocks taken, not by blocks written: many may be taken before the first is written.
PrepareEvents stopped_after_a_block() {
  PrepareEvents events;
  events.interrupted = [taken = 0]() mutable { return taken++ > 0; };
  return events;
}

TEST(Prepare, AStoppedJobGoesOnAndEndsWithTheSameBytes) {
  const TemporaryFolder folder;
  folder.spill("in.jsonl", corpus(60000));
  prepare(options(folder, "whole"));
  PrepareOptions o = options(folder, "parts");
  o.note_every = 100000;
  int stops = 0;
  for (PrepareReport report; !report.finished; ++stops) {
    report = prepare(o, stopped_after_a_block());
    o.resume = true;
    ASSERT_LT(stops, 50);
  }
  EXPECT_GE(stops, 2);
  for (const char* suffix : {".bin", ".idx", ".json"}) {
    EXPECT_TRUE(bytes(folder / "parts" + suffix) == bytes(folder / "whole" + suffix)) << suffix;
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "parts.prepare.json"));
}

TEST(Prepare, AResumeWithOtherInputsOrOptionsIsRefused) {
  const TemporaryFolder folder;
  folder.spill("in.jsonl", corpus(60000));
  PrepareOptions o = options(folder, "out");
  ASSERT_FALSE(prepare(o, stopped_after_a_block()).finished);
  EXPECT_NE(refusal(o).find("--resume"), std::string::npos);
  o.resume = true;
  o.documents.text_field = "body";
  EXPECT_NE(refusal(o).find("other text_field"), std::string::npos);
  o.documents.text_field = "text";
  folder.spill("in.jsonl", corpus(60001));
  EXPECT_NE(refusal(o).find("other files"), std::string::npos);
  o.overwrite = true;
  o.resume = false;
  EXPECT_EQ(prepare(o).documents, 60001);
  o.overwrite = false;
  EXPECT_NE(refusal(o).find("is there already"), std::string::npos);
}

TEST(Prepare, AMalformedLineStopsTheJobOrIsCountedAsAsked) {
  const TemporaryFolder folder;
  folder.spill("in.jsonl", corpus(30000) + "{oops\n" + corpus(30000) + "{\"body\": 1}\n");
  PrepareOptions o = options(folder, "out");
  EXPECT_NE(refusal(o).find("in.jsonl:30001: not valid JSON"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder / "out.idx"));
  o.skip_malformed = true;
  o.resume = true;  // what came before the line is kept
  const PrepareReport report = prepare(o);
  EXPECT_EQ(report.documents, 60000);
  EXPECT_EQ(report.malformed, (std::array<std::int64_t, malformed_kinds>{1, 1, 0, 0}));
  ASSERT_EQ(report.examples.size(), 2u);
  EXPECT_NE(report.examples[1].find(":60002: has no string field"), std::string::npos);

  folder.spill("in.jsonl", "{}\n");
  o.prefix = folder / "none";
  EXPECT_NE(refusal(o).find("no document that is well formed"), std::string::npos);
}

std::vector<std::int32_t> labels_of(const std::string& prefix, std::int64_t document) {
  const TokenDataset set = TokenDataset::open(labels_prefix(prefix));
  std::vector<std::int32_t> labels(static_cast<std::size_t>(set.length(document)));
  set.read_labels(document, 0, labels);
  return labels;
}

TEST(Prepare, LabelsLieAtTheTokensThatTheyAreComparedWith) {
  const TemporaryFolder folder;
  folder.spill("in.jsonl", R"({"ids": [10, 11, 12], "labels": [-100, 12, 7]})"
                           "\n"
                           R"({"ids": [], "labels": []})"
                           "\n"
                           R"({"labels": [20], "ids": [20]})"
                           "\n");
  PrepareOptions o = options(folder, "out");
  const PrepareReport report = prepare(o);
  EXPECT_EQ(report.documents, 2);
  EXPECT_EQ(report.empty, 1);
  EXPECT_EQ(report.text_bytes, 4u);  // of the byte tokenizer
  using Ids = std::vector<std::int32_t>;
  const TokenDataset set = TokenDataset::open(folder / "out");
  EXPECT_EQ(set.read(0), (Ids{10, 11, 12, 2}));
  EXPECT_EQ(labels_of(folder / "out", 0), (Ids{-100, -100, 12, 7}));
  EXPECT_EQ(set.read(1), (Ids{20, 2}));
  EXPECT_EQ(labels_of(folder / "out", 1), (Ids{-100, 20}));
  EXPECT_TRUE(read_dataset_info(folder / "out")->labels);

  o.prefix = folder / "endless";
  o.append_end = false;
  EXPECT_NE(refusal(o).find("last label is 7, and there is no token after it"), std::string::npos);
  folder.spill("in.jsonl", R"({"ids": [10, 11, 12], "labels": [11, 12, -100]})");
  o.overwrite = true;
  prepare(o);
  EXPECT_EQ(labels_of(folder / "endless", 0), (Ids{-100, 11, 12}));
}

TEST(Prepare, AStoppedJobOfLabelsGoesOnAndEndsWithTheSameBytes) {
  const TemporaryFolder folder;
  std::string lines;
  for (int i = 0; i < 60000; ++i) {
    lines += fmt::format(R"({{"ids": [{0}, 1, {1}], "labels": [1, {1}, -100]}})", i % 200, i % 97);
    lines += "\n";
  }
  folder.spill("in.jsonl", lines);
  prepare(options(folder, "whole"));
  PrepareOptions o = options(folder, "parts");
  o.note_every = 1000;
  int stops = 0;
  for (PrepareReport report; !report.finished; ++stops) {
    report = prepare(o, stopped_after_a_block());
    o.resume = true;
    ASSERT_LT(stops, 50);
  }
  EXPECT_GE(stops, 2);
  for (const char* suffix : {".bin", ".idx", ".json", "_labels.bin", "_labels.idx"}) {
    EXPECT_TRUE(bytes(folder / "parts" + suffix) == bytes(folder / "whole" + suffix)) << suffix;
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    EXPECT_EQ(entry.path().string().find(".partial"), std::string::npos) << entry.path();
  }
}

TEST(Prepare, LabelsThatFitNoIdsAndMixturesAreRefused) {
  const TemporaryFolder folder;
  PrepareOptions o = options(folder, "out");
  o.overwrite = true;
  const std::string good = R"({"ids": [1, 2], "labels": [2, -100]})";
  const auto says = [&](const std::string& lines) {
    folder.spill("in.jsonl", lines);
    return refusal(o);
  };
  EXPECT_NE(says(good + "\n{\"text\": \"a\"}\n").find("prepare them apart"), std::string::npos);
  EXPECT_NE(says("{\"text\": \"a\"}\n" + good).find("prepare them apart"), std::string::npos);
  // In a block of its own.
  EXPECT_NE(says(corpus(30000) + good).find("prepare them apart"), std::string::npos);
  EXPECT_NE(says(R"({"ids": [1, 999], "labels": [2, -100]})").find("ids hold 999; the tokenizer"),
            std::string::npos);
  EXPECT_NE(says(R"({"ids": [1, 2], "labels": [2, 999]})").find("labels hold 999"),
            std::string::npos);
  EXPECT_NE(says(R"({"ids": [1, -100], "labels": [2, 2]})").find("ids holds -100; wanted ids"),
            std::string::npos);
  EXPECT_NE(says(R"({"ids": [1], "labels": [-5]})").find("labels holds -5; wanted ids, or -100"),
            std::string::npos);
  EXPECT_NE(says(R"({"ids": [1], "labels": [18446744073709551516]})").find("wanted ids, or -100"),
            std::string::npos);  // -100 in 64 bits
  EXPECT_NE(says(R"({"ids": [1]})").find("in.jsonl:1: has ids but no labels"), std::string::npos);
  o.skip_malformed = true;
  folder.spill("in.jsonl", good + "\n" + R"({"ids": [1, 2], "labels": [2]})" + "\n");
  const PrepareReport report = prepare(o);
  EXPECT_EQ(report.documents, 1);
  EXPECT_EQ(report.malformed, (std::array<std::int64_t, malformed_kinds>{0, 0, 0, 1}));
}

}  // namespace
}  // namespace metala
