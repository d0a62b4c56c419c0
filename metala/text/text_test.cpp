#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <fstream>
#include <iterator>

#include "metala/base/error.h"
#include "metala/generate/text_stream.h"
#include "metala/harness/temporary_folder.h"
#include "metala/text/tokenizer.h"
#include "metala/text/utf8.h"

namespace metala {
namespace {

using harness::TemporaryFolder;

const std::string replacement = "\xEF\xBF\xBD";

// Scripts, emoji with joiners, spaces of many kinds, control characters, combining marks.
const std::string difficult[] = {"Hello world",
                                 "  two  spaces  ",
                                 "tab\tand\nlines\r\n\n",
                                 "naïve café ÅÉÎ",
                                 "Москва, Αθήνα",
                                 "日本語の文章。中文",
                                 "한국어",
                                 "עברית العربية",
                                 "👩‍👩‍👧‍👦 🇩🇪 👍🏽",
                                 "e\xCC\x81 combining",
                                 std::string("nul \0 inside", 12),
                                 "\x01\x02\x7f",
                                 "a\xC2\xA0"
                                 "b\xE3\x80\x80"
                                 "c",
                                 "1234567890",
                                 "\xFF\xFE broken \xC3",
                                 "\xED\xA0\x80 surrogate",
                                 "\xF4\x90\x80\x80 beyond"};

// A small vocabulary learned once for all tests.
const Tokenizer& learned() {
  static const auto tokenizer = [] {
    int left = 200;
    const auto next = [&](std::string& text) {
      text = "The quick brown fox jumps over the lazy dog, number " + std::to_string(left) +
             ".\nPackages are installed with their dependencies.\n";
      return left-- > 0;
    };
    return sentencepiece_tokenizer(train_sentencepiece(next, 360, 1 << 20), "test");
  }();
  return *tokenizer;
}

TEST(Utf8, WholeCharactersAreAPrefixAndInvalidPartsAreReplacedOneByOne) {
  EXPECT_EQ(valid_utf8_prefix("ab\xC3\xA9\xC3"), 4u);
  EXPECT_EQ(replace_invalid_utf8("a\xFF"
                                 "b"),
            "a" + replacement + "b");
  EXPECT_EQ(replace_invalid_utf8("\xE2\x82z"), replacement + "z");  // one maximal part
  EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80"), replacement + replacement + replacement);
  EXPECT_EQ(replace_invalid_utf8("\xC0\xAF"), replacement + replacement);  // overlong
}

RC_GTEST_PROP(Utf8, CuttingAStreamAnywhereChangesNothing, (const std::string& bytes)) {
  Utf8Stream stream;
  std::string text;
  for (const char byte : bytes) {
    const std::string piece = stream.push(std::string_view(&byte, 1));
    RC_ASSERT(valid_utf8_prefix(piece) == piece.size());
    text += piece;
  }
  text += stream.flush();
  RC_ASSERT(text == replace_invalid_utf8(bytes));
}

RC_GTEST_PROP(Tokenizer, BytesComeBackExactlyFromBothTokenizers, (const std::string& bytes)) {
  const auto plain = byte_tokenizer();
  RC_ASSERT(plain->decode(plain->encode(bytes)) == bytes);
  RC_ASSERT(learned().decode(learned().encode(bytes)) == bytes);
}

TEST(Tokenizer, TextsOfManyScriptsAndBrokenOnesComeBackExactly) {
  for (const auto& text : difficult) {
    EXPECT_EQ(learned().decode(learned().encode(text)), text);
    EXPECT_EQ(byte_tokenizer()->decode(byte_tokenizer()->encode(text)), text);
  }
}

TEST(Tokenizer, KnownWordsTakeFewTokens) {
  EXPECT_LE(learned().encode("The quick brown fox").size(), 8u);
  EXPECT_EQ(byte_tokenizer()->encode("abc"), (std::vector<std::int32_t>{100, 101, 102}));
}

TEST(Tokenizer, EncodingManyTextsAtOnceIsEncodingEach) {
  const std::vector<std::string> texts(std::begin(difficult), std::end(difficult));
  const auto all = learned().encode_all(texts);
  for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(all[i], learned().encode(texts[i]));
}

TEST(Tokenizer, ASavedTokenizerIsFoundInItsFolder) {
  const TemporaryFolder folder;
  learned().save(folder.path());
  const auto found = open_tokenizer(folder.path());
  EXPECT_EQ(found->encode("The lazy dog"), learned().encode("The lazy dog"));
  const TemporaryFolder other;
  byte_tokenizer()->save(other.path());
  EXPECT_EQ(open_tokenizer(other.path())->size(), 259);
}

TEST(Tokenizer, AFolderWithoutOneAndDamagedModelsAreRefusedInOneLine) {
  const TemporaryFolder folder;
  EXPECT_THROW(open_tokenizer(folder.path()), Error);
  learned().save(folder.path());
  const std::string good = [&] {
    std::ifstream in(folder / "tokenizer.model", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }();
  for (const std::string& bad :
       {std::string(), std::string("nonsense"), good.substr(0, 100), std::string(5000, '\xff')}) {
    folder.spill("tokenizer.model", bad);
    EXPECT_THROW(open_tokenizer(folder.path()), Error) << bad.size();
  }
}

// Streams ids one at a time; every piece must be whole characters.
std::string streamed(const Tokenizer& tokenizer, const std::string& text,
                     const std::vector<std::string>& stops) {
  TextStream stream(tokenizer, stops);
  std::string out;
  for (const auto id : tokenizer.encode(text)) {
    const std::string piece = stream.push(id);
    EXPECT_EQ(valid_utf8_prefix(piece), piece.size());
    out += piece;
    if (stream.stopped()) return out;
  }
  return out + stream.flush();
}

TEST(TextStream, PiecesAddUpToTheTextCutAtTheFirstStopString) {
  const std::vector<std::vector<std::string>> stops = {{},       {"dog"},      {"fox", "quick b"},
                                                       {"\n\n"}, {"zzz", "o"}, {"日本"}};
  for (const auto& text : difficult) {
    for (const auto& stop : stops) {
      std::string want = replace_invalid_utf8(text);
      std::size_t end = std::string::npos;
      for (const auto& s : stop) end = std::min(end, want.find(s));
      if (end != std::string::npos) want.resize(end);
      EXPECT_EQ(streamed(*byte_tokenizer(), text, stop), want);
      EXPECT_EQ(streamed(learned(), text, stop), want);
    }
  }
}

TEST(TextStream, ABeginningOfAStopStringThatIsNotOneIsGivenOut) {
  EXPECT_EQ(streamed(*byte_tokenizer(), "ababac", {"abac"}), "ab");
  EXPECT_EQ(streamed(*byte_tokenizer(), "ababa", {"abac"}), "ababa");
}

}  // namespace
}  // namespace metala
