#include "metala/io/zip_archive.h"

#include <gtest/gtest.h>

#include <cstring>

#include "metala/base/error.h"
#include "metala/harness/refusal.h"
#include "metala/harness/temporary_folder.h"
#include "metala/harness/zip_builder.h"

namespace metala {
namespace {

using namespace harness;

std::string text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string contents(const std::string& bytes, const std::string& name) {
  const TemporaryFolder folder;
  folder.spill("a.zip", bytes);
  return text(ZipArchive::open(folder / "a.zip").bytes(name));
}

std::string refusal(const std::string& bytes) {
  const TemporaryFolder folder;
  folder.spill("a.zip", bytes);
  return harness::refusal_of([&] { ZipArchive::open(folder / "a.zip"); });
}

void expect_refusal(const std::string& bytes, const std::string& reason) {
  const std::string came = refusal(bytes);
  EXPECT_NE(came.find(reason), std::string::npos) << came;
}

TEST(ZipArchive, StoredEntriesAreReadInPlace) {
  const std::string bytes = zip_of({{"x/data.pkl", "abc"}, {"x/data/0", ""}, {"x/version", "3\n"}});
  EXPECT_EQ(contents(bytes, "x/data.pkl"), "abc");
  EXPECT_EQ(contents(bytes, "x/data/0"), "");
  EXPECT_EQ(contents(bytes, "x/version"), "3\n");
}

TEST(ZipArchive, AnArchiveCommentDoesNotHideTheDirectory) {
  std::string bytes = zip_of({{"a", "one"}});
  bytes[bytes.size() - 2] = 5;
  EXPECT_EQ(contents(bytes + "hello", "a"), "one");
}

TEST(ZipArchive, SizesComeFromTheDirectoryWhereTheHeaderLeavesThemToADescriptor) {
  ZipOptions options;
  options.descriptors = true;
  const std::string bytes = zip_of({{"a", "first"}, {"b", "second"}}, options);
  EXPECT_EQ(contents(bytes, "a"), "first");
  EXPECT_EQ(contents(bytes, "b"), "second");
}

TEST(ZipArchive, Zip64FieldsAndEndRecordAreHonoured) {
  ZipOptions options;
  options.zip64 = true;
  const std::string bytes = zip_of({{"a", "first"}, {"b", "second"}}, options);
  EXPECT_EQ(contents(bytes, "a"), "first");
  EXPECT_EQ(contents(bytes, "b"), "second");
}

TEST(ZipArchive, PaddingInTheHeadersExtraFieldIsSkipped) {
  ZipOptions options;
  options.alignment = 64;
  const TemporaryFolder folder;
  folder.spill("a.zip", zip_of({{"a", "first"}, {"b", "second"}}, options));
  const auto archive = ZipArchive::open(folder / "a.zip");
  EXPECT_EQ(text(archive.bytes("b")), "second");
  const auto offset = archive.bytes("b").data() - archive.file().bytes().data();
  EXPECT_EQ(offset % 64, 0);
}

TEST(ZipArchive, CompressedEntriesAreRefusedByName) {
  ZipOptions options;
  options.method = 8;
  expect_refusal(zip_of({{"a/data.pkl", "abc"}}, options), "a/data.pkl: is compressed (method 8)");
}

TEST(ZipArchive, EncryptedEntriesAreRefused) {
  ZipOptions options;
  options.flags = 1;
  expect_refusal(zip_of({{"a", "abc"}}, options), "a: is encrypted");
}

TEST(ZipArchive, NamesThatLeaveTheArchiveAreRefused) {
  const std::vector<std::string> names = {
      "../a", "x/../a", "x/..", "/etc/passwd", "x\\a", "", std::string("x\0a", 3)};
  for (const auto& name : names) {
    expect_refusal(zip_of({{name, "abc"}}), "is not named by a relative path");
  }
  EXPECT_EQ(contents(zip_of({{"..a/b..", "dots"}}), "..a/b.."), "dots");
}

TEST(ZipArchive, ANameGivenTwiceIsRefused) {
  expect_refusal(zip_of({{"a", "abc"}, {"a", "abc"}}), "holds a twice");
}

TEST(ZipArchive, EntriesThatShareBytesAreRefused) {
  const std::string good = zip_of({{"aa", "first"}, {"bb", "second"}});
  const std::size_t second = directory_record(good, 1);
  std::string shared = good;
  const std::uint32_t into_first = 3;
  std::memcpy(shared.data() + second + 42, &into_first, 4);
  expect_refusal(shared, "bb overlaps the entry before it");

  std::string long_first = good;
  const std::uint32_t too_long = 40;
  std::memcpy(long_first.data() + directory_record(good, 0) + 20, &too_long, 4);
  std::memcpy(long_first.data() + directory_record(good, 0) + 24, &too_long, 4);
  expect_refusal(long_first, "bb overlaps the entry before it");
}

TEST(ZipArchive, AnEntryMayNotReachIntoTheDirectory) {
  std::string bytes = zip_of({{"a", "abc"}});
  const std::uint32_t too_long = 4;
  std::memcpy(bytes.data() + directory_record(bytes, 0) + 20, &too_long, 4);
  std::memcpy(bytes.data() + directory_record(bytes, 0) + 24, &too_long, 4);
  expect_refusal(bytes, "1 bytes short");
}

TEST(ZipArchive, AnEntryMayNotClaimMoreThanItStores) {
  std::string bytes = zip_of({{"a", "abc"}});
  const std::uint32_t bomb = 0x7fffffff;
  std::memcpy(bytes.data() + directory_record(bytes, 0) + 24, &bomb, 4);
  expect_refusal(bytes, "stores 2147483647 bytes as 3");
}

TEST(ZipArchive, AHeaderThatNamesAnotherFileIsRefused) {
  std::string bytes = zip_of({{"a", "abc"}});
  bytes[30] = 'b';
  expect_refusal(bytes, "the header of a names \"b\"");
}

TEST(ZipArchive, MoreEntriesThanTheDirectoryHoldsAreRefusedBeforeReading) {
  std::string bytes = zip_of({{"a", "abc"}});
  const std::uint16_t many = 0x7fff;
  std::memcpy(bytes.data() + bytes.size() - 14, &many, 2);
  std::memcpy(bytes.data() + bytes.size() - 12, &many, 2);
  expect_refusal(bytes, "cannot hold 32767 entries");
}

TEST(ZipArchive, OneOfSeveralDisksIsRefused) {
  std::string bytes = zip_of({{"a", "abc"}});
  bytes[bytes.size() - 18] = 1;
  expect_refusal(bytes, "is one of several disks");
  bytes = zip_of({{"a", "abc"}});
  bytes[directory_record(bytes, 0) + 34] = 1;
  expect_refusal(bytes, "a: lies on another disk");
}

TEST(ZipArchive, ADirectoryBeyondTheEndIsRefused) {
  std::string bytes = zip_of({{"a", "abc"}});
  bytes[bytes.size() - 5] = 0x7f;
  expect_refusal(bytes, "lies beyond its end");
}

TEST(ZipArchive, AnEntryWithoutAHeaderIsRefused) {
  std::string bytes = zip_of({{"a", "abc"}});
  bytes[1] = 'Q';
  expect_refusal(bytes, "a has no header at byte 0");
}

TEST(ZipArchive, AZip64EndWithoutItsLocatorIsRefused) {
  std::string end = "PK\5\6";
  end.append(4, '\0');
  end.append(12, '\xff');
  end.append(2, '\0');
  expect_refusal(end, "its zip64 locator is missing");
  expect_refusal(std::string(30, 'x') + end, "its zip64 locator is missing");
}

TEST(ZipArchive, AFileOfAFewBytesIsNoZipFile) {
  expect_refusal("PK\3\4", "4 bytes are too few for a zip file");
  expect_refusal("", "0 bytes are too few for a zip file");
}

TEST(ZipArchive, EveryTruncationIsRefused) {
  const std::string bytes = zip_of({{"a", "abc"}, {"b", "defg"}});
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_NE(refusal(bytes.substr(0, length)), "accepted") << length;
  }
}

TEST(ZipArchive, AMissingEntryIsNamed) {
  EXPECT_TRUE(harness::refuses([&] { contents(zip_of({{"a", "abc"}}), "b"); }, "has no entry b"));
}

}  // namespace
}  // namespace metala
