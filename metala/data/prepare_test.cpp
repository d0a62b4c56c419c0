// Preparing text: the same bytes whatever the threads and interruptions, and a true report.
#include "metala/data/prepare.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "metala/base/error.h"
#include "metala/data/dataset_info.h"
#include "metala/data/token_dataset.h"
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
  try {
    prepare(o);
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
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

TEST(Prepare, AStoppedJobGoesOnAndEndsWithTheSameBytes) {
  const TemporaryFolder folder;
  folder.spill("in.jsonl", corpus(60000));
  prepare(options(folder, "whole"));
  PrepareOptions o = options(folder, "parts");
  o.note_every = 100000;
  int stops = 0;
  for (PrepareReport report; !report.finished; ++stops) {
    int blocks = 0;
    PrepareEvents events;
    events.interrupted = [&] { return blocks >= 1; };
    events.progress = [&](const PrepareReport&) { ++blocks; };
    report = prepare(o, events);
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
  PrepareEvents events;
  int blocks = 0;
  events.interrupted = [&] { return blocks >= 1; };
  events.progress = [&](const PrepareReport&) { ++blocks; };
  ASSERT_FALSE(prepare(o, events).finished);
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
  EXPECT_EQ(report.malformed, (std::array<std::int64_t, malformed_kinds>{1, 1, 0}));
  ASSERT_EQ(report.examples.size(), 2u);
  EXPECT_NE(report.examples[1].find(":60002: has no string field"), std::string::npos);

  folder.spill("in.jsonl", "{}\n");
  o.prefix = folder / "none";
  EXPECT_NE(refusal(o).find("no document that is well formed"), std::string::npos);
}

}  // namespace
}  // namespace metala
