// The code written for well-known patterns finds what their regular expressions find.
#include "metala/text/split_patterns.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "metala/text/regex.h"
#include "metala/text/unicode.h"

namespace metala {
namespace {

using Parts = std::vector<std::string>;

Parts by_code(const char* pattern, const std::string& text) {
  const Splitter splitter = split_patterns::find(pattern);
  Parts parts;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = splitter(text, at);
    parts.push_back(text.substr(at, end - at));
    at = end;
  }
  return parts;
}

Parts by_regex(const char* pattern, const std::string& text) {
  const Regex regex(pattern, Regex::Syntax::perl, "test");
  Parts parts;
  regex.each(text, [&](std::size_t begin, std::size_t end) {
    parts.push_back(text.substr(begin, end - begin));
  });
  return parts;
}

const char* const coded[] = {split_patterns::gpt2, split_patterns::cl100k,
                             split_patterns::cl100k_whole_end, split_patterns::qwen};

// Characters of every kind that a pattern tells apart, the rare ones as likely as the others.
const char32_t telling[] = {
    ' ',    ' ',    '\t',   '\n',    '\r',   0x0B,  0x85,     0xA0,   0x2003, 0x2028, 0x3000,
    0x200B, 's',    't',    'r',     'e',    'v',   'm',      'l',    'd',    'S',    'L',
    0x17F,  0x212A, 'a',    'Z',     0xE9,   0x3A9, 0x4E2D,   0x5D0,  0x2B0,  0x1C5,  '0',
    '7',    0x664,  0x2162, 0xBD,    0xB2,   '\'',  '\'',     0x2019, '.',    '!',    '_',
    0x301,  0x903,  0x20AC, 0x1F600, 0x200D, 0,     0x10FFFF, 0x20000};

std::string text_of(const std::vector<std::uint16_t>& choices) {
  std::string text;
  for (const auto choice : choices) {
    unicode::append(text, telling[choice % std::size(telling)]);
  }
  return text;
}

RC_GTEST_PROP(SplitPatterns, CodeAndRegularExpressionCutTellingTextsAlike,
              (const std::vector<std::uint16_t>& choices)) {
  const std::string text = text_of(choices);
  for (const char* pattern : coded) RC_ASSERT(by_code(pattern, text) == by_regex(pattern, text));
}

TEST(SplitPatterns, EveryCharacterIsOfTheClassThatTheRegularExpressionSays) {
  std::string text;
  for (char32_t c = 1; c < 0x110000; c += c < 0x3000 ? 1 : 7) {
    if (c >= 0xD800 && c < 0xE000) continue;
    unicode::append(text, c);
    if (c % 3 == 0) text += "a ";
    if (c % 5 == 0) text += "1";
  }
  for (const char* pattern : coded) {
    EXPECT_TRUE(by_code(pattern, text) == by_regex(pattern, text)) << pattern;
  }
}

TEST(SplitPatterns, ThePublishedExamplesAreCutAsPublished) {
  const std::string text = "Hello  world's 12345!!\n\n  foo\tbar  ";
  EXPECT_EQ(by_code(split_patterns::gpt2, text), (Parts{"Hello", " ", " world", "'s", " 12345",
                                                        "!!", "\n\n ", " foo", "\t", "bar", "  "}));
  EXPECT_EQ(by_code(split_patterns::cl100k, text),
            (Parts{"Hello", " ", " world", "'s", " ", "123", "45", "!!\n\n", " ", " foo", "\tbar",
                   "  "}));
  EXPECT_EQ(by_code(split_patterns::cl100k, "DON'T  stop , now\r\n x=1"),
            (Parts{"DON", "'T", " ", " stop", " ,", " now", "\r\n", " x", "=", "1"}));
}

TEST(SplitPatterns, TiktokensNewerPatternKeepsWhiteSpaceAtTheEndWhole) {
  EXPECT_EQ(by_code(split_patterns::cl100k, "a\n  "), (Parts{"a", "\n", "  "}));
  EXPECT_EQ(by_code(split_patterns::cl100k_whole_end, "a\n  "), (Parts{"a", "\n  "}));
}

TEST(SplitPatterns, AnyOtherPatternHasNoCode) {
  EXPECT_EQ(split_patterns::find(R"(\s+)"), nullptr);
  EXPECT_EQ(split_patterns::find(""), nullptr);
}

}  // namespace
}  // namespace metala
