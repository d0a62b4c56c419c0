// .npy files as NumPy writes them; what is not one is refused in one line.
#include "metala/io/npy.h"

#include <gtest/gtest.h>

#include <array>

#include "metala/harness/refusal.h"
#include "metala/harness/temporary_folder.h"

namespace metala {
namespace {

using harness::TemporaryFolder;

template <class T>
std::span<const std::byte> bytes_of(const T& numbers) {
  return std::as_bytes(std::span(numbers));
}

// numpy.save of [[0, 0], [0, 4], [1, 1]] as int32 and of [0, 1, 2] as uint32, by NumPy 2.4.6.
TEST(Npy, TheBytesAreNumpys) {
  const TemporaryFolder folder;
  const std::array<std::int32_t, 6> pairs = {0, 0, 0, 4, 1, 1};
  write_npy(folder / "pairs.npy", "<i4", {3, 2}, bytes_of(pairs));
  std::string want(
      "\x93NUMPY\x01\x00v\x00{'descr': '<i4', 'fortran_order': False, 'shape': (3, 2), }", 69);
  want += std::string(127 - want.size(), ' ') + "\n";
  want.append(reinterpret_cast<const char*>(pairs.data()), sizeof pairs);
  EXPECT_EQ(read_file(folder / "pairs.npy", 1000), want);

  const std::array<std::uint32_t, 3> three = {0, 1, 2};
  write_npy(folder / "three.npy", "<u4", {3}, bytes_of(three));
  EXPECT_EQ(read_file(folder / "three.npy", 1000).substr(10, 57),
            "{'descr': '<u4', 'fortran_order': False, 'shape': (3,), }");
  const NpyFile read = NpyFile::open(folder / "three.npy");
  EXPECT_EQ(read.descr(), "<u4");
  EXPECT_EQ(read.shape(), (std::vector<std::int64_t>{3}));
  EXPECT_EQ(read.numbers<std::uint32_t>()[2], 2u);
  EXPECT_THROW(read.numbers<std::uint64_t>(), Error);
}

TEST(Npy, WhatLiesAboutItselfIsRefused) {
  const TemporaryFolder folder;
  const auto refusal = [&](const std::string& content) {
    folder.spill("x.npy", content);
    return harness::refusal_of([&] { NpyFile::open(folder / "x.npy"); });
  };
  const auto file = [](const std::string& dictionary, std::size_t numbers) {
    std::string text = "\x93NUMPY\x01";
    text += std::string("\x00v\x00", 3) + dictionary;
    text += std::string(127 - text.size(), ' ') + "\n";
    return text + std::string(numbers, '\0');
  };
  const std::string good = "{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }";
  EXPECT_EQ(refusal(file(good, 12)), "accepted");
  EXPECT_NE(refusal(file(good, 8)).find("has 8 bytes of numbers; its shape wants 3 of 4"),
            std::string::npos);
  EXPECT_NE(refusal(file(good, 12).substr(0, 100)).find("its header has 118 bytes"),
            std::string::npos);
  EXPECT_NE(refusal("").find("not a .npy file"), std::string::npos);
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return refusal(file(text, 12));
  };
  EXPECT_NE(changed("<i4", ">i4").find("little-endian"), std::string::npos);
  EXPECT_NE(changed("False", "True").find("not NumPy's"), std::string::npos);
  EXPECT_NE(changed("(3,)", "(-3,)").find("whole numbers"), std::string::npos);
  EXPECT_NE(changed("(3,)", "(4294967296, 4294967296, 3)").find("can be counted"),
            std::string::npos);
  EXPECT_NE(changed(", }", ", }x").find("follows the shape"), std::string::npos);
  EXPECT_NE(changed("(3,), }", "(3").find("not"), std::string::npos);
}

}  // namespace
}  // namespace metala
