#include "metala/io/pickle.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "metala/base/error.h"

namespace metala {
namespace {

using Kind = Pickle::Kind;
using namespace std::string_literals;

ByteReader reader_of(const std::string& bytes) {
  return {std::as_bytes(std::span(bytes)), "data.pkl"};
}

// The values view `bytes`, which the caller keeps.
Pickle read(const std::string& bytes) {
  ByteReader reader = reader_of(bytes);
  return Pickle::read(reader);
}

const Pickle::Value& root(const Pickle& pickle) {
  return pickle[pickle.root()];
}

void expect_refusal(const std::string& bytes, const std::string& reason) {
  try {
    read(bytes);
    ADD_FAILURE() << "read, wanted: " << reason;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
  }
}

std::int64_t integer(const std::string& bytes) {
  const Pickle pickle = read(bytes);
  EXPECT_EQ(root(pickle).kind, Kind::integer);
  return root(pickle).integer;
}

TEST(Pickle, IntegersOfEveryWidthAreRead) {
  EXPECT_EQ(integer("K\xff."), 255);
  EXPECT_EQ(integer("M\xff\xff."), 65535);
  EXPECT_EQ(integer("J\xfe\xff\xff\xff."), -2);
  EXPECT_EQ(integer("\x8a\x00."s), 0);
  EXPECT_EQ(integer("\x8a\x01\xff."), -1);
  EXPECT_EQ(integer("\x8a\x02\xff\x00."s), 255);
  EXPECT_EQ(integer("\x8a\x08\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8."),
            static_cast<std::int64_t>(0xa86a20f9469cfc6cu));
  EXPECT_EQ(integer("\x8b\x01\x00\x00\x00\x07."s), 7);
}

TEST(Pickle, IntegersBeyond64BitsKeepTheirBytes) {
  const std::string bytes = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
  const Pickle pickle = read(bytes);
  EXPECT_EQ(root(pickle).kind, Kind::long_integer);
  EXPECT_EQ(root(pickle).text, "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19");
}

TEST(Pickle, RealsAreBigEndian) {
  const std::string bytes = "G\x3f\xf8\x00\x00\x00\x00\x00\x00."s;
  EXPECT_EQ(root(read(bytes)).real, 1.5);
}

TEST(Pickle, StringsAndBytesOfEveryFormAreViewsOfTheFile) {
  for (const auto& [bytes, kind] :
       std::vector<std::pair<std::string, Kind>>{{"U\2ab.", Kind::string},
                                                 {"\x8c\2ab.", Kind::string},
                                                 {"T\2\0\0\0ab."s, Kind::string},
                                                 {"X\2\0\0\0ab."s, Kind::string},
                                                 {"\x8d\2\0\0\0\0\0\0\0ab."s, Kind::string},
                                                 {"C\2ab.", Kind::bytes},
                                                 {"B\2\0\0\0ab."s, Kind::bytes},
                                                 {"\x8e\2\0\0\0\0\0\0\0ab."s, Kind::bytes},
                                                 {"\x96\2\0\0\0\0\0\0\0ab."s, Kind::bytes}}) {
    const Pickle pickle = read(bytes);
    EXPECT_EQ(root(pickle).kind, kind);
    EXPECT_EQ(root(pickle).text, "ab");
    EXPECT_EQ(root(pickle).text.data(), bytes.data() + bytes.size() - 3);
  }
}

TEST(Pickle, TuplesListsSetsAndDictsKeepTheirOrder) {
  const std::string bytes = "\x80\4\x95\x0f\0\0\0\0\0\0\0(K\1K\2\x86]K\3a}(K\4NK\5\x88ut."s;
  const Pickle pickle = read(bytes);
  ASSERT_EQ(root(pickle).kind, Kind::tuple);
  ASSERT_EQ(root(pickle).items.size(), 3u);
  const auto& pair = pickle[root(pickle).items[0]];
  EXPECT_EQ(pair.kind, Kind::tuple);
  EXPECT_EQ(pickle[pair.items[0]].integer, 1);
  EXPECT_EQ(pickle[pair.items[1]].integer, 2);
  const auto& list = pickle[root(pickle).items[1]];
  EXPECT_EQ(list.kind, Kind::list);
  EXPECT_EQ(pickle[list.items.at(0)].integer, 3);
  const auto& dict = pickle[root(pickle).items[2]];
  EXPECT_EQ(dict.kind, Kind::dict);
  ASSERT_EQ(dict.pairs.size(), 2u);
  EXPECT_EQ(pickle[dict.pairs[0].first].integer, 4);
  EXPECT_EQ(pickle[dict.pairs[0].second].kind, Kind::none);
  EXPECT_TRUE(pickle[dict.pairs[1].second].boolean);
  const std::string set = "\x8f(K\1K\2\x90.";
  EXPECT_EQ(root(read(set)).items.size(), 2u);
}

TEST(Pickle, APickleThatAsksForOsSystemOnlySaysSo) {
  const std::string marker =
      (std::filesystem::temp_directory_path() / "metala-pickle-was-called").string();
  const std::string order = "touch " + marker;
  const std::string bytes =
      "cos\nsystem\nU" + std::string(1, static_cast<char>(order.size())) + order + "\x85R.";
  const Pickle pickle = read(bytes);
  EXPECT_EQ(root(pickle).kind, Kind::call);
  EXPECT_TRUE(pickle.is_global(root(pickle).callee, "os", "system"));
  EXPECT_EQ(pickle[pickle[root(pickle).arguments].items[0]].text, order);
  EXPECT_FALSE(std::filesystem::exists(marker));
}

TEST(Pickle, ObjectsKeepWhatTheyWereBuiltFrom) {
  const std::string bytes = "\x8c\1m\x8c\1C\x93K\1\x85}\x92(K\2e(K\3K\4u}b."s;
  const Pickle pickle = read(bytes);
  EXPECT_TRUE(pickle.is_global(root(pickle).callee, "m", "C"));
  EXPECT_EQ(pickle[root(pickle).keywords].kind, Kind::dict);
  EXPECT_EQ(pickle[root(pickle).items.at(0)].integer, 2);
  EXPECT_EQ(pickle[root(pickle).pairs.at(0).second].integer, 4);
  EXPECT_EQ(pickle[root(pickle).state].kind, Kind::dict);
}

TEST(Pickle, TheMemoGivesBackTheSameValue) {
  for (const std::string& bytes :
       {"]q\5h\5\x86."s, "]r\5\0\0\0j\5\0\0\0\x86."s, "]\x94h\0\x86."s, "]2\x86."s}) {
    const Pickle pickle = read(bytes);
    EXPECT_EQ(root(pickle).items.at(0), root(pickle).items.at(1));
  }
}

TEST(Pickle, AListMayHoldItself) {
  const Pickle pickle = read("]q\0h\0a."s);
  EXPECT_EQ(root(pickle).items.at(0), pickle.root());
}

TEST(Pickle, PoppedValuesAndMarksAreGone) {
  EXPECT_EQ(integer("K\1K\2"
                    "0."),
            1);
  EXPECT_EQ(integer("K\1(K\2K\3"
                    "1."),
            1);
  EXPECT_EQ(integer("K\1(0."), 1);
}

TEST(Pickle, SeveralPicklesInARowAreReadOneByOne) {
  const std::string bytes = "K\1.K\2.";
  ByteReader reader = reader_of(bytes);
  EXPECT_EQ(root(Pickle::read(reader)).integer, 1);
  EXPECT_EQ(root(Pickle::read(reader)).integer, 2);
  EXPECT_EQ(reader.remaining(), 0u);
}

TEST(Pickle, OpcodesThatFindTheWrongValuesAreRefused) {
  expect_refusal("h\7.", "asks for a value that was not remembered");
  expect_refusal("Nq\3h\2."s, "asks for a value that was not remembered");
  expect_refusal("Nr\xff\xff\xff\xff.", "remembers a value under too large a number");
  expect_refusal(".", "finds no value");
  expect_refusal("K\1(\x85.", "finds no value");
  expect_refusal("K\1t.", "finds no mark");
  expect_refusal("NN.", "leaves values behind");
  expect_refusal("N(.", "finds no value");
  expect_refusal("NK\1a.", "adds to what holds no items");
  expect_refusal("NK\1K\1s.", "sets a key of what has none");
  expect_refusal("}(Nu.", "finds a key without a value");
  expect_refusal("NNR.", "calls something with what is no tuple");
  expect_refusal("N}b.", "gives a state to what is no object");
  expect_refusal("NN\x93.", "names a global by what is no string");
  expect_refusal("\x80\x06N.", "names a protocol beyond 5");
  expect_refusal("\x95\xff\0\0\0\0\0\0\0N."s, "frames more bytes than there are");
  expect_refusal("\x8b\xff\xff\xff\xff.", "has a negative length");
  expect_refusal("cos", "names a global without an end");
  const std::string module = "\x8d\x01\x04\0\0\0\0\0\0"s + std::string(1025, 'm');
  expect_refusal(module + "\x8c\1n\x93.", "names a global at too great a length");
}

TEST(Pickle, OpcodesOutsideTheTableAreRefused) {
  for (const char* opcode : {"P", "I", "i", "o", "\x82", "\x97", "F", "V"}) {
    expect_refusal(std::string("N") + opcode + "1\n1\n.", "unknown pickle opcode");
  }
}

TEST(Pickle, LengthsBeyondTheEndAndAMissingStopAreRefused) {
  expect_refusal("N", "1 bytes short");
  expect_refusal("", "1 bytes short");
  expect_refusal("\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "bytes short");
}

TEST(Pickle, MoreValuesThanTheLimitAreRefused) {
  expect_refusal(std::string(Pickle::most_values + 1, 'N'), "makes more values than are read");
}

}  // namespace
}  // namespace metala
