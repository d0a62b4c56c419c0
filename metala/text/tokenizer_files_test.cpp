// Which files are a folder's tokenizer, what they say beside ids, and files that bite.
#include <gtest/gtest.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "metala/base/error.h"
#include "metala/generate/text_stream.h"
#include "metala/harness/temporary_folder.h"
#include "metala/text/clean_up.h"
#include "metala/text/tokenizer.h"

namespace metala {
namespace {

using harness::slurp;
using harness::TemporaryFolder;
using nlohmann::json;
using Ids = std::vector<std::int32_t>;

const std::string golden = METALA_SOURCE_DIR "/tests/tokenizers/";

// Four tokens, one merge.
json small_json() {
  return json::parse(R"({
    "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
    "post_processor": null, "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "aba": 3},
              "merges": [["a", "b"]]}})");
}

std::string letters_base64(int byte) {
  static const char* const digits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  return {digits[byte >> 2], digits[(byte & 3) << 4], '=', '='};
}

// The 256 bytes in order, then what is given.
std::string byte_ranks(const std::string& more) {
  std::string lines;
  for (int byte = 0; byte < 256; ++byte) {
    lines += letters_base64(byte) + " " + std::to_string(byte) + "\n";
  }
  return lines + more;
}

std::string refusal(const std::string& folder) {
  const std::clock_t start = std::clock();  // of the processor: a busy machine is slow by itself
  try {
    const auto tokenizer = open_tokenizer(folder);
    tokenizer->encode(std::string(100, 'a') + " b");
  } catch (const Error& error) {
    const std::string line = error.what();
    EXPECT_EQ(line.find('\n'), std::string::npos);
    EXPECT_LT(std::clock() - start, 5 * CLOCKS_PER_SEC) << line;
    return line;
  }
  return "accepted";
}

bool says(const std::string& line, const std::string& words) {
  return line.find(words) != std::string::npos;
}

std::string refusal_of_json(const json& file) {
  const TemporaryFolder folder;
  folder.spill("tokenizer.json", file.dump());
  return refusal(folder.path());
}

std::string refusal_of_ranks(const std::string& ranks, const std::string& description = "") {
  const TemporaryFolder folder;
  folder.spill("x.tiktoken", ranks);
  if (!description.empty()) folder.spill("x.tiktoken.json", description);
  return refusal(folder.path());
}

// ---- which file

TEST(TokenizerFiles, TokenizerJsonGoesBeforeAModelAndAModelBeforeRanks) {
  const TemporaryFolder folder;
  folder.spill("x.tiktoken", byte_ranks(""));
  EXPECT_TRUE(open_tokenizer(folder.path())->description().starts_with("tiktoken"));
  folder.spill("tokenizer.model", slurp(golden + "sentencepiece_llama/tokenizer.model"));
  EXPECT_TRUE(open_tokenizer(folder.path())->description().starts_with("SentencePiece"));
  folder.spill("tokenizer.json", small_json().dump());
  EXPECT_TRUE(open_tokenizer(folder.path())->description().starts_with("tokenizer.json"));
  EXPECT_TRUE(open_tokenizer(folder / "x.tiktoken")->description().starts_with("tiktoken"));
}

TEST(TokenizerFiles, TwoFilesOfRanksAreAskedAbout) {
  const TemporaryFolder folder;
  folder.spill("a.tiktoken", byte_ranks(""));
  folder.spill("b.tiktoken", byte_ranks(""));
  EXPECT_PRED2(says, refusal(folder.path()), std::string("a.tiktoken and b.tiktoken"));
}

TEST(TokenizerFiles, EverySavedTokenizerIsTheSameWhenOpenedAgain) {
  for (const char* name : {"llama", "qwen", "tiktoken_cl100k", "sentencepiece_nfkc"}) {
    const TemporaryFolder folder;
    const auto original = open_tokenizer(golden + name);
    original->save(folder.path());
    const auto again = open_tokenizer(folder.path());
    const std::string text = "The state <|im_end|> is <s> a value, é 中 \xFF!";
    EXPECT_EQ(again->encode(text, {.special = true}), original->encode(text, {.special = true}));
    EXPECT_EQ(again->eos(), original->eos());
  }
}

TEST(TokenizerFiles, GPT4sSpecialTokensAreThoseOfItsNumberOfRanks) {
  std::string more;
  for (int rank = 256; rank < 100'256; ++rank) {  // three bytes each, all different
    const int n = rank;
    static const char* const digits =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    more += {digits[n >> 18 & 63], digits[n >> 12 & 63], digits[n >> 6 & 63], digits[n & 63]};
    more += " " + std::to_string(rank) + "\n";
  }
  const TemporaryFolder folder;
  folder.spill("x.tiktoken", byte_ranks(more));
  const auto tokenizer = open_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->eos(), 100'257);
  EXPECT_EQ(tokenizer->size(), 100'277);
  EXPECT_EQ(tokenizer->encode("<|endofprompt|>", {.special = true}), Ids{100'276});
}

// ---- what stands beside the ids

TEST(TokenizerConfigFile, LlamasClassPutsBosInFrontUnlessToldNotTo) {
  const TemporaryFolder folder;
  folder.spill("tokenizer.json", slurp(golden + "llama/tokenizer.json"));
  EXPECT_EQ(open_tokenizer(folder.path())->frame().before, Ids{1});  // its post-processor's
  folder.spill("tokenizer_config.json",
               R"({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>",
                   "eos_token": {"content": "</s>"}, "add_bos_token": false,
                   "add_eos_token": true})");
  const auto tokenizer = open_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->frame().before, Ids{});
  EXPECT_EQ(tokenizer->frame().after, Ids{2});
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
}

TEST(TokenizerConfigFile, AddedTokensExtendAVocabularyAndAreFoundInTexts) {
  const TemporaryFolder folder;
  folder.spill("tokenizer.model", slurp(golden + "sentencepiece_llama/tokenizer.model"));
  const auto size = open_tokenizer(folder.path())->size();
  const std::string config = fmt::format(
      R"({{"eos_token": "<|im_end|>", "added_tokens_decoder": {{"{}": {{"content": "<|im_end|>",
          "special": true}}, "1": {{"content": "<s>", "special": true}}}}}})",
      size);
  folder.spill("tokenizer_config.json", config);
  const auto tokenizer = open_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->size(), size + 1);
  EXPECT_EQ(tokenizer->eos(), size);
  const auto ids = tokenizer->encode("<s>hi<|im_end|>", {.special = true});
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(ids.back(), size);
  EXPECT_EQ(tokenizer->text(ids), "hi");
  EXPECT_NE(tokenizer->encode("<|im_end|>").front(), size);
}

TEST(TokenizerConfigFile, ATextThatGoesOnGetsNoSpaceInFront) {
  for (const char* name : {"llama", "llama_legacy", "sentencepiece_llama", "starcoder"}) {
    const auto tokenizer = open_tokenizer(golden + name);
    const auto whole = tokenizer->encode("The model");
    const auto rest = tokenizer->encode("The model", {.continues = true});
    EXPECT_NE(whole, rest) << name;
    std::string added;
    for (const auto id : rest) added += tokenizer->bytes(id);
    EXPECT_EQ(added, "The model") << name;
  }
}

TEST(TokenizerConfigFile, SpacesAreCleanedUpIfItAsksForThat) {
  const TemporaryFolder folder;
  folder.spill("tokenizer.json", slurp(golden + "gpt2/tokenizer.json"));
  const std::string text = "it 's here , is n't it ? I 'm";
  const auto plain = open_tokenizer(folder.path());
  EXPECT_EQ(plain->text(plain->encode(text)), text);
  folder.spill("tokenizer_config.json", R"({"clean_up_tokenization_spaces": true})");
  const auto tokenizer = open_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->text(tokenizer->encode(text)), "it's here, isn't it? I'm");
  TextStream stream(*tokenizer, {}, true);
  std::string streamed;
  for (const auto id : tokenizer->encode(text)) streamed += stream.push(id);
  EXPECT_EQ(streamed + stream.flush(), "it's here, isn't it? I'm");
}

TEST(CleanUp, AStreamCutAnywhereIsCleanedAsTheWhole) {
  const char* const parts[] = {" ", " ", "'", "n't", "'s", "'m", ".", "?", ",", "a", "'ve", "!"};
  std::uint32_t random = 1;
  for (int round = 0; round < 20'000; ++round) {
    std::string text, streamed;
    CleanUpStream stream;
    for (int i = 0; i < 9; ++i) {
      random = random * 1664525 + 1013904223;
      const std::string part = parts[(random >> 16) % std::size(parts)];
      text += part;
      streamed += stream.push(part);
    }
    ASSERT_EQ(streamed + stream.flush(), clean_up_spaces(text)) << "'" << text << "'";
  }
}

TEST(CleanUp, AStreamWithoutSpacesIsNotHeldBack) {
  CleanUpStream stream;
  EXPECT_EQ(stream.push("\xE4\xB8\xAD\xE6\x96\x87"), "\xE4\xB8\xAD\xE6\x96\x87");
  EXPECT_EQ(stream.push(" is"), "");
  EXPECT_EQ(stream.push("n't"), " isn't");
  EXPECT_EQ(stream.push(" n"), "");
  EXPECT_EQ(stream.push("'t"), "n't");
}

// ---- the merge loop, by hand

TEST(BytePairs, MergesGoByRankAndFromTheLeft) {
  const auto pieces = [](json vocab, json merges, const std::string& text) {
    json file = small_json();
    file["model"]["vocab"] = std::move(vocab);
    file["model"]["merges"] = std::move(merges);
    const TemporaryFolder folder;
    folder.spill("tokenizer.json", file.dump());
    const auto tokenizer = open_tokenizer(folder.path());
    std::string out;
    for (const auto id : tokenizer->encode(text)) out += tokenizer->piece(id) + "|";
    return out;
  };
  const json letters = {{"a", 0},  {"b", 1},   {"c", 2},  {"d", 3},
                        {"ab", 4}, {"abc", 5}, {"bc", 6}, {"cd", 7}};
  const json merges = {"a b", "ab c", "b c", "c d"};
  EXPECT_EQ(pieces(letters, merges, "abcd"), "abc|d|");
  EXPECT_EQ(pieces(letters, merges, "bcd"), "bc|d|");
  const json twins = {{"a", 0}, {"aa", 1}, {"aaaa", 2}};
  EXPECT_EQ(pieces(twins, {"a a"}, "aaa"), "aa|a|");
  EXPECT_EQ(pieces(twins, {"a a"}, "aaaa"), "aa|aa|");
  EXPECT_EQ(pieces(twins, {"a a", "aa aa"}, "aaaaa"), "aaaa|a|");
  // Longer than what is scanned: the heap's way.
  std::string many;
  for (int i = 0; i < 100; ++i) many += "abcd";
  std::string want;
  for (int i = 0; i < 100; ++i) want += "abc|d|";
  EXPECT_EQ(pieces(letters, merges, many), want);
}

// ---- files that bite

TEST(HostileTokenizerJson, IdsWithHolesTwiceOrHugeAreRefused) {
  json file = small_json();
  EXPECT_EQ(refusal_of_json(file), "accepted");
  file["model"]["vocab"]["aba"] = 4;
  EXPECT_PRED2(says, refusal_of_json(file), std::string("\"aba\" has id 4, but there are 4"));
  file["model"]["vocab"]["aba"] = 10'000'000'000;
  EXPECT_PRED2(says, refusal_of_json(file), std::string("has id 10000000000"));
  file["model"]["vocab"]["aba"] = 2;
  EXPECT_PRED2(says, refusal_of_json(file), std::string("which is another's"));
  file["model"]["vocab"]["aba"] = -1;
  EXPECT_PRED2(says, refusal_of_json(file), std::string("has no id of 0 or more"));
  file["model"]["vocab"]["aba"] = "x";
  EXPECT_PRED2(says, refusal_of_json(file), std::string("has no id of 0 or more"));
  file["model"]["vocab"] = json::object();
  EXPECT_PRED2(says, refusal_of_json(file), std::string("has no vocab"));
}

TEST(HostileTokenizerJson, MergesOfWhatIsNotThereAreRefused) {
  json file = small_json();
  file["model"]["merges"] = json::array({json::array({"a", "z"})});
  EXPECT_PRED2(says, refusal_of_json(file), std::string("\"z\" is not in the vocabulary"));
  file["model"]["merges"] = json::array({json::array({"b", "a"})});
  EXPECT_PRED2(says, refusal_of_json(file), std::string("\"ba\" is not in the vocabulary"));
  file["model"]["merges"] = json::array({json::array({"", "a"})});
  EXPECT_PRED2(says, refusal_of_json(file), std::string("merges[0]"));
  file["model"]["merges"] = {{"a", "b"}};  // an object
  EXPECT_PRED2(says, refusal_of_json(file), std::string("merges is not a list"));
  file["model"]["merges"] = json::array({json::array({"a"})});
  EXPECT_PRED2(says, refusal_of_json(file), std::string("not a pair"));
  file["model"]["merges"] = {"a b c"};
  EXPECT_PRED2(says, refusal_of_json(file), std::string("wanted two tokens"));
  file["model"]["merges"] = {5};
  EXPECT_PRED2(says, refusal_of_json(file), std::string("neither a pair nor a text"));
}

TEST(HostileTokenizerJson, AddedTokensThatContradictAreRefused) {
  const auto with = [](json added) {
    json file = small_json();
    file["added_tokens"] = std::move(added);
    return refusal_of_json(file);
  };
  EXPECT_EQ(with({{{"id", 4}, {"content", "<s>"}}}), "accepted");
  EXPECT_PRED2(says, with({{{"id", 2'000'000'000}, {"content", "<s>"}}}),
               std::string("wanted 4, the next"));
  EXPECT_PRED2(says, with({{{"id", 1}, {"content", "<s>"}}}), std::string("which is another's"));
  EXPECT_PRED2(says, with({{{"id", 1}, {"content", "a"}}}), std::string("in the vocabulary 0"));
  EXPECT_PRED2(says, with({{{"id", 4}, {"content", ""}}}), std::string("empty content"));
  EXPECT_PRED2(says, with({{{"id", 4}, {"content", "<s>"}}, {{"id", 4}, {"content", "<s>"}}}),
               std::string("added twice"));
  EXPECT_PRED2(says, with({{{"id", 4}, {"content", std::string(2'000'000, 'x')}}}),
               std::string("take more than"));
}

TEST(HostileTokenizerJson, UnknownComponentsAndModelsAreRefusedByName) {
  for (const char* where : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    json file = small_json();
    file[where] = {{"type", "Telepathy"}};
    const std::string line = refusal_of_json(file);
    EXPECT_PRED2(says, line, std::string("\"Telepathy\"")) << where;
    EXPECT_PRED2(says, line, std::string(where));
  }
  json file = small_json();
  file["model"]["type"] = "Unigram";
  EXPECT_PRED2(says, refusal_of_json(file), std::string("\"Unigram\""));
  file = small_json();
  file["model"]["continuing_subword_prefix"] = "##";
  EXPECT_PRED2(says, refusal_of_json(file), std::string("continuing_subword_prefix is \"##\""));
  file = small_json();
  file["model"]["dropout"] = 0.1;
  EXPECT_PRED2(says, refusal_of_json(file), std::string("dropout"));
  file = small_json();
  file["version"] = "9.0";
  EXPECT_PRED2(says, refusal_of_json(file), std::string("version"));
}

TEST(HostileTokenizerJson, DeepNestingIsRefused) {
  const TemporaryFolder folder;
  folder.spill("tokenizer.json", std::string(1'000'000, '['));
  EXPECT_PRED2(says, refusal(folder.path()), std::string("nested deeper"));
  json nested = {{"type", "NFC"}};
  for (int i = 0; i < 40; ++i) {
    nested = {{"type", "Sequence"}, {"normalizers", json::array({std::move(nested)})}};
  }
  json file = small_json();
  file["normalizer"] = std::move(nested);
  EXPECT_PRED2(says, refusal_of_json(file), std::string("nested deeper"));
}

TEST(HostileTokenizerJson, CatastrophicPatternsAreGivenUp) {
  json file = small_json();
  file["pre_tokenizer"] = {{"type", "Split"},
                           {"pattern", {{"Regex", "(a+)+$(?!a)c|(a|a)*b$"}}},
                           {"behavior", "Isolated"},
                           {"invert", false}};
  EXPECT_PRED2(says, refusal_of_json(file), std::string("takes too much"));
  file["pre_tokenizer"]["pattern"] = {{"Regex", "(unclosed"}};
  EXPECT_PRED2(says, refusal_of_json(file), std::string("no regular expression"));
  file["pre_tokenizer"]["pattern"] = {{"Regex", std::string(100'000, 'x')}};
  EXPECT_PRED2(says, refusal_of_json(file), std::string("the pattern has 100000 bytes"));
  EXPECT_PRED2(says, refusal_of_ranks(byte_ranks(""), R"({"pattern": "(a|a)*(aa|a)*b"})"),
               std::string("takes too much"));
}

// Each search is short, or goes back nowhere; all together they would take minutes.
TEST(HostileTokenizerJson, PatternsThatLookAtAWholeLongTextFromEachOfItsPlacesAreGivenUp) {
  for (const char* pattern : {"a+[bc]|a", "a(?=a*+)", "a*+[ab]"}) {
    json file = small_json();
    file["pre_tokenizer"] = {
        {"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
    const TemporaryFolder folder;
    folder.spill("tokenizer.json", file.dump());
    const auto tokenizer = open_tokenizer(folder.path());
    EXPECT_EQ(tokenizer->encode(std::string(3000, 'a')).size(), 3000u) << pattern;
    const std::clock_t start = std::clock();
    EXPECT_THROW(tokenizer->encode(std::string(40'000, 'a')), Error) << pattern;
    EXPECT_LT(std::clock() - start, 30 * CLOCKS_PER_SEC) << pattern;
  }
}

TEST(HostileTokenizerJson, NormalizersThatDoubleAgainAndAgainAreGivenUp) {
  json parts = json::array();
  for (int i = 0; i < 60; ++i) {
    parts.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
  }
  json file = small_json();
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", parts}};
  EXPECT_PRED2(says, refusal_of_json(file), std::string("that is no tokenizer"));
  file = small_json();
  file["normalizer"] = {{"type", "Sequence"},
                        {"normalizers", json::array({{{"type", "ByteLevel"}}})}};
  for (int i = 0; i < 40; ++i) {
    file["normalizer"]["normalizers"].push_back({{"type", "ByteLevel"}});
  }
  EXPECT_PRED2(says, refusal_of_json(file), std::string("that is no tokenizer"));
  file = small_json();
  file["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "  "}};
  EXPECT_PRED2(says, refusal_of_json(file), std::string("replacement is not one character"));
  file = small_json();
  file["decoder"] = {{"type", "Metaspace"}, {"replacement", "ab"}};
  EXPECT_PRED2(says, refusal_of_json(file), std::string("replacement is not one character"));
  file = small_json();
  file["decoder"] = {{"type", "Sequence"}, {"decoders", parts}};
  EXPECT_PRED2(says, refusal_of_json(file), std::string("that is no tokenizer"));
  json stages = json::array();
  for (int i = 0; i < 1000; ++i) stages.push_back({{"type", "WhitespaceSplit"}});
  file = small_json();
  file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", stages}};
  EXPECT_PRED2(says, refusal_of_json(file), std::string("one of more than 64"));
}

TEST(HostileTokenizerJson, PostProcessorsWithIdsOfNoTokenAreRefused) {
  json file = small_json();
  file["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
      {"special_tokens", {{"<s>", {{"ids", {99}}}}}}};
  EXPECT_PRED2(says, refusal_of_json(file), std::string("no id of a token"));
}

TEST(HostileSentencePiece, ANullCharacterInAPieceIsRefused) {
  using namespace std::string_literals;
  const TemporaryFolder folder;
  folder.spill("tokenizer.model", "\x0a\x05\x0a\x03"s + "a\0b"s);
  EXPECT_PRED2(says, refusal(folder.path()), std::string("null character"));
}

TEST(HostileTiktoken, RanksThatAreNoRanksAreRefused) {
  EXPECT_EQ(refusal_of_ranks(byte_ranks("YWI= 256\n")), "accepted");
  EXPECT_PRED2(says, refusal_of_ranks(byte_ranks("YWI= 10000000000\n")), std::string("line 257"));
  EXPECT_PRED2(says, refusal_of_ranks(byte_ranks("YWI= 2000000000\n")), std::string("far beyond"));
  EXPECT_PRED2(says, refusal_of_ranks(byte_ranks("YWI= 255\n")), std::string("given twice"));
  EXPECT_PRED2(says, refusal_of_ranks(byte_ranks("YQ== 256\n")), std::string("the same token"));
  EXPECT_PRED2(says, refusal_of_ranks(byte_ranks("YWI 256\n")), std::string("line 257"));
  EXPECT_PRED2(says, refusal_of_ranks(byte_ranks("Y=I= 256\n")), std::string("line 257"));
  EXPECT_PRED2(says, refusal_of_ranks(byte_ranks("YWI= -1\n")), std::string("line 257"));
  std::string long_token;
  for (int i = 0; i < 1'000'000; ++i) long_token += "YWFh";
  EXPECT_PRED2(says, refusal_of_ranks(byte_ranks(long_token + " 256\n")),
               std::string("line 257 is a token of 3000000 bytes; at most 4096"));
  EXPECT_PRED2(says, refusal_of_ranks("YWI= 0\n"), std::string("no rank for the byte 0x00"));
  EXPECT_PRED2(says, refusal_of_ranks(""), std::string("has no ranks"));
  EXPECT_PRED2(says, refusal_of_ranks(std::string(1000, '\xff')), std::string("line 1"));
}

TEST(HostileTiktoken, DescriptionsThatContradictAreRefused) {
  const std::string ranks = byte_ranks("");
  EXPECT_EQ(refusal_of_ranks(ranks, R"({"special_tokens": {"<s>": 256}})"), "accepted");
  EXPECT_PRED2(says, refusal_of_ranks(ranks, R"({"special_tokens": {"<s>": 255}})"),
               std::string("which is another's"));
  EXPECT_PRED2(says, refusal_of_ranks(ranks, R"({"special_tokens": {"<s>": 2000000000}})"),
               std::string("far beyond"));
  EXPECT_PRED2(says, refusal_of_ranks(ranks, R"({"special_tokens": {"<s>": 9999999999}})"),
               std::string("has no id"));
  EXPECT_PRED2(says, refusal_of_ranks(ranks, R"({"eos_token": "<none>"})"),
               std::string("which is no token"));
  EXPECT_PRED2(says, refusal_of_ranks(ranks, R"({"patern": "gpt2"})"), std::string("\"patern\""));
}

}  // namespace
}  // namespace metala
