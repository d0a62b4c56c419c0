// Documents come out of every kind of file, in order; what is wrong with one is said with its
// place.
#include "metala/data/documents.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <utility>

#include "metala/base/error.h"
#include "metala/harness/refusal.h"
#include "metala/harness/temporary_folder.h"
#include "metala/io/input_stream.h"

namespace metala {
namespace {

using harness::TemporaryFolder;

TEST(Documents, FilesFoldersAndJsonLinesAreReadInOrder) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "d/sub");
  std::filesystem::create_directories(folder / "d/.git");
  folder.spill("d/b.txt", "second");
  folder.spill("d/a.txt", "first");
  folder.spill("d/sub/c", "third");
  folder.spill("d/.git/config", "hidden");
  folder.spill("x.jsonl", "{\"text\": \"one\"}\n\n{\"text\": \"two\"}\n");
  std::vector<std::string> texts;
  read_documents({folder / "d", folder / "x.jsonl"}, {},
                 [&](Document d) { texts.push_back(d.text); });
  EXPECT_EQ(texts, (std::vector<std::string>{"first", "second", "third", "one", "two"}));
}

TEST(Documents, BadInputIsRefusedWithFileAndLine) {
  const TemporaryFolder folder;
  const auto message = [&](const std::string& name, const std::string& content) {
    folder.spill(name, content);
    return harness::refusal_of(
        [&] { read_documents({folder / name}, {}, [](const Document&) {}); });
  };
  EXPECT_NE(message("a.jsonl", "{\"text\": \"x\"}\n{broken\n").find("a.jsonl:2: not valid JSON"),
            std::string::npos);
  EXPECT_NE(message("b.jsonl", "{\"body\": \"x\"}\n").find("--text-field"), std::string::npos);
  EXPECT_NE(message("c.jsonl", R"({"ids": [1, 2], "labels": [1]})").find("2 ids but 1 labels"),
            std::string::npos);
  EXPECT_NE(message("d.txt", "ok \xff").find("byte 3 is not UTF-8"), std::string::npos);
  EXPECT_THROW(read_documents({folder / "none"}, {}, [](const Document&) {}), Error);
}

std::string gzipped(const std::string& text) {
  z_stream z{};
  deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  std::string out(text.size() + 200, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  z.avail_in = static_cast<uInt>(text.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

// With a checksum, as the program zstd writes.
std::string zstandard(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  out.resize(ZSTD_compress2(context, out.data(), out.size(), text.data(), text.size()));
  ZSTD_freeCCtx(context);
  return out;
}

std::string read_whole(const std::string& path, std::size_t piece) {
  const auto stream = InputStream::open(path);
  std::string all, buffer(piece, '\0');
  while (const std::size_t got = stream->read(buffer.data(), piece)) all.append(buffer, 0, got);
  EXPECT_EQ(stream->consumed(), std::filesystem::file_size(path));
  return all;
}

// Lines that do not compress to nothing.
std::string many_lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += "{\"text\": \"line " + std::to_string(i * 7919 % 104729) + "\"}\n";
  }
  return text;
}

TEST(InputStream, CompressedFilesOfSeveralPartsComeOutWhole) {
  const TemporaryFolder folder;
  const std::string a = many_lines(50000);
  const std::string b = many_lines(10);
  folder.spill("plain", a + b);
  folder.spill("gz", gzipped(a) + gzipped(b));
  folder.spill("zst", zstandard(a) + zstandard(b));
  folder.spill("empty", "");
  for (const std::size_t piece : {std::size_t{1} << 20, std::size_t{777}}) {
    for (const char* name : {"plain", "gz", "zst"}) {
      EXPECT_TRUE(read_whole(folder / name, piece) == a + b) << name << " " << piece;
    }
  }
  EXPECT_EQ(read_whole(folder / "empty", 10), "");
}

TEST(InputStream, DamagedAndCutFilesAreRefused) {
  const TemporaryFolder folder;
  const std::string text = many_lines(2000);
  for (std::string packed : {gzipped(text), zstandard(text)}) {
    folder.spill("cut", packed.substr(0, packed.size() - 9));
    EXPECT_THROW(read_whole(folder / "cut", 1000), Error);
    packed[packed.size() / 2] ^= 0x55;
    folder.spill("damaged", packed);
    EXPECT_THROW(read_whole(folder / "damaged", 1000), Error);
  }
  EXPECT_THROW(InputStream::open(folder / "none"), Error);
}

TEST(Documents, CompressedFilesAreReadByWhatTheyHold) {
  const TemporaryFolder folder;
  folder.spill("a.jsonl.gz", gzipped("{\"text\": \"one\"}\n{\"text\": \"two\"}"));
  folder.spill("b.jsonl.zst", zstandard("{\"meta\": {\"text\": 1}, \"text\": \"three\"}\n"));
  folder.spill("c.txt.gz", gzipped("a whole file\nof text"));
  std::vector<std::string> texts;
  read_documents({folder.path()}, {}, [&](Document d) { texts.push_back(d.text); });
  EXPECT_EQ(texts, (std::vector<std::string>{"one", "two", "three", "a whole file\nof text"}));
}

TEST(Documents, BlocksEndAtLinesAndReadingGoesOnBehindAny) {
  const TemporaryFolder folder;
  folder.spill("a.jsonl", many_lines(60000));  // more than two blocks
  folder.spill("b.jsonl", "{\"text\": \"last\"}");
  const auto files =
      document_files({folder / "a.jsonl", folder / "b.jsonl"}, DocumentFormat::by_name);
  std::vector<DocumentPosition> ends = {{}};
  std::vector<std::string> blocks;
  DocumentReader reader(files);
  for (DocumentBlock block; reader.next(block);) {
    EXPECT_TRUE(block.text.empty() || block.text.back() == '\n' || block.path.ends_with("b.jsonl"));
    blocks.push_back(block.text);
    ends.push_back(block.end);
  }
  ASSERT_GT(blocks.size(), 3u);
  std::string all;
  for (const auto& block : blocks) all += block;
  EXPECT_TRUE(all == many_lines(60000) + "{\"text\": \"last\"}");
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    DocumentReader later(files, ends[i]);
    DocumentBlock block;
    std::string rest;
    bool first = true;
    while (later.next(block)) {
      if (std::exchange(first, false)) {
        EXPECT_EQ(block.first_line, ends[i].line + 1);
      }
      rest += block.text;
    }
    std::string wanted;
    for (std::size_t j = i; j < blocks.size(); ++j) wanted += blocks[j];
    EXPECT_TRUE(rest == wanted) << i;
  }
}

TEST(Documents, MalformedOnesAreCountedByKindWhenAskedTo) {
  DocumentBlock block;
  block.path = "x.jsonl";
  block.lines = true;
  block.first_line = 10;
  block.text =
      "{\"text\": \"good\"}\n{broken\n\n{\"body\": 1}\n{\"text\": [\"no\"]}\n\xff\n[1]\n"
      "{\"text\": \"a\", \"text\": \"b\"}\n{\"text\": \"end\"}";
  std::vector<std::string> texts, problems;
  for_each_document(
      block, {}, [&](Document d) { texts.push_back(d.text); },
      [&](Malformed kind, const std::string& message) {
        problems.push_back(std::string(name_of(kind)) + " " + message.substr(0, 11));
      });
  EXPECT_EQ(texts, (std::vector<std::string>{"good", "end"}));
  EXPECT_EQ(problems, (std::vector<std::string>{"not JSON x.jsonl:11:", "no text x.jsonl:13:",
                                                "no text x.jsonl:14:", "not UTF-8 x.jsonl:15:",
                                                "not JSON x.jsonl:16:", "not JSON x.jsonl:17:"}));
}

}  // namespace
}  // namespace metala
