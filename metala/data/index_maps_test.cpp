// Maps of samples kept beside the data: the reference's files, and never another answer than
// without them.
#include "metala/data/index_maps.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "metala/base/error.h"
#include "metala/harness/temporary_folder.h"
#include "metala/io/npy.h"

namespace metala {
namespace {

using harness::TemporaryFolder;

// 1,000 documents of 1 to 37 tokens.
std::int64_t length_of(std::int64_t document) {
  return 1 + document * document % 37;
}

SampleOptions options() {
  SampleOptions o;
  o.length = 16;
  o.wanted = 3000;
  return o;
}

class IndexMaps : public testing::Test {
 protected:
  SampleIndex index(bool write, std::int64_t first = 0, std::int64_t last = 1000,
                    const LengthOf& lengths = length_of) {
    IndexMapOptions keeping;
    keeping.part = "train";
    keeping.write = write;
    keeping.least = 0;
    keeping.notice = [&](const std::string& text) { notices_ += text + "\n"; };
    notices_.clear();
    return sample_index(prefix_, first, last, lengths, options(), {}, keeping);
  }
  static void expect_same(const SampleIndex& got, const SampleIndex& want) {
    EXPECT_EQ(got.epochs(), want.epochs());
    EXPECT_TRUE(std::ranges::equal(got.maps().order, want.maps().order));
    EXPECT_TRUE(std::ranges::equal(got.maps().places, want.maps().places));
    EXPECT_TRUE(std::ranges::equal(got.maps().visits, want.maps().visits));
  }

  const TemporaryFolder folder_;
  const std::string prefix_ = folder_ / "d";
  const std::string name_ = prefix_ + "_train_indexmap_3000ns_16sl_1234s_packedpi_ac";
  const SampleIndex want_ = SampleIndex(0, 1000, length_of, options());
  std::string notices_;
};

TEST_F(IndexMaps, AreKeptUnderTheReferencesNamesAndReadBack) {
  expect_same(index(false), want_);
  EXPECT_NE(notices_.find("ordering"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(name_ + "_doc_idx.npy"));
  expect_same(index(true), want_);
  EXPECT_NE(notices_.find("_doc_idx.npy"), std::string::npos) << notices_;
  const NpyFile order = NpyFile::open(name_ + "_doc_idx.npy");
  EXPECT_EQ(order.descr(), "<i4");
  EXPECT_TRUE(std::ranges::equal(order.numbers<std::uint32_t>(), want_.maps().order));
  const NpyFile places = NpyFile::open(name_ + "_sample_idx.npy");
  EXPECT_EQ(places.shape(), (std::vector<std::int64_t>{want_.size() + 2, 2}));
  EXPECT_EQ(places.numbers<std::int32_t>()[3],
            static_cast<std::int32_t>(want_.maps().places[1].offset));
  EXPECT_EQ(NpyFile::open(name_ + "_shuffle_idx.npy").descr(), "<u4");
  expect_same(index(false), want_);
  EXPECT_EQ(notices_, "");  // nothing had to be made
}

TEST_F(IndexMaps, OfAnotherSplitOrOtherDataAreMadeAnew) {
  index(true, 0, 900);  // the name does not tell
  expect_same(index(true), want_);
  EXPECT_NE(notices_.find("making it anew"), std::string::npos) << notices_;
  // As many documents, and as many tokens, of other lengths.
  const LengthOf swapped = [](std::int64_t d) { return length_of(d ^ 1); };
  const SampleIndex other(0, 1000, swapped, options());
  expect_same(index(true, 0, 1000, swapped), other);
  EXPECT_NE(notices_.find("the data has changed since; making it anew"), std::string::npos)
      << notices_;
  expect_same(index(false, 0, 1000, swapped), other);
  EXPECT_EQ(notices_, "");
  // As many documents, others.
  index(true, 1, 1001, [](std::int64_t) { return std::int64_t{9}; });
  const SampleIndex even(
      0, 1000, [](std::int64_t) { return std::int64_t{9}; }, options());
  expect_same(index(false, 0, 1000, [](std::int64_t) { return std::int64_t{9}; }), even);
  EXPECT_NE(notices_.find("no order of 0 to 999"), std::string::npos) << notices_;
}

TEST_F(IndexMaps, ThatAreDamagedAreMadeAnew) {
  for (const char* which : {"_doc_idx.npy", "_sample_idx.npy", "_shuffle_idx.npy"}) {
    SCOPED_TRACE(which);
    index(true);
    const std::string path = name_ + which;
    const std::string whole = read_file(path, 1 << 20);
    std::string damaged = whole;
    damaged[damaged.size() - 1] = '\x7f';  // the last number is beyond all bounds
    std::string half = whole.substr(0, whole.size() / 2);
    for (const std::string& content : {damaged, half, std::string("hello")}) {
      write_file_atomically(path, content);
      expect_same(index(false), want_);
      EXPECT_NE(notices_.find("making it anew"), std::string::npos) << notices_;
    }
    std::filesystem::remove(path);
    expect_same(index(false), want_);
    EXPECT_NE(notices_.find("ordering"), std::string::npos);
  }
}

TEST_F(IndexMaps, ThatCannotBeKeptAreUsedAllTheSame) {
  std::filesystem::create_directories(name_ + "_shuffle_idx.npy");  // no file can be put there
  expect_same(index(true), want_);
  EXPECT_NE(notices_.find("is not kept: "), std::string::npos) << notices_;
}

TEST_F(IndexMaps, OfFewSamplesAreNotKept) {
  IndexMapOptions keeping;
  keeping.part = "train";
  keeping.write = true;
  expect_same(sample_index(prefix_, 0, 1000, length_of, options(), {}, keeping), want_);
  EXPECT_FALSE(std::filesystem::exists(name_ + "_doc_idx.npy"));
}

}  // namespace
}  // namespace metala
